"""Episodes made of recorded answers."""

from collections.abc import Sequence
from typing import Any

from mpdf_langgraph import AnswerSchema, Episode
from training.collect.importing import Answer, Replay, make_responses


def recorded_episode(
    question: str,
    reference: str | None,
    answers: Sequence[Answer],
    *,
    schema: AnswerSchema,
    **options: Any,
) -> Episode:
    proposals = make_responses(answers, schema)
    return Replay(schema, **options).play(question, reference, proposals)
