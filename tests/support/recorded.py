"""Episodes made of recorded answers."""

import warnings
from collections.abc import Sequence
from typing import Any

from mpdf_langgraph import AnswerSchema, Episode, create_deliberation
from tests.support.running import record_of
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


def played_episode(question: str, reference: str, agents: Sequence[Any], **options: Any) -> Episode:
    """The record that a real graph makes, of agents that may say the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "all .* agents proposed the very same text")
        given = {"question": question, "reference": reference}
        return record_of(create_deliberation(agents, **options), given)
