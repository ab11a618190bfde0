"""Episodes made of recorded answers."""

import warnings
from collections.abc import Sequence
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from mpdf_langgraph import AnswerSchema, Episode, create_deliberation
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
    graph = create_deliberation(agents, **options).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "all .* agents proposed the very same text")
        graph.invoke({"question": question, "reference": reference}, config)
    return Episode.from_state(graph.get_state(config).values)
