"""What a deliberation has to know about answers: reading, comparing, clustering.

Comparing may take a while (a worker process, a judge model), so async code calls
`assign_clusters` in a thread.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mpdf_langgraph.errors import ConfigurationError, plugged_in


class AnswerSchema(Protocol):
    """What a deliberation has to know about answers.

    If comparing two answers takes the question, as for programs, a schema has one more method,
    ``for_question(question)``. It returns the schema to compare with (see `schema_for`).

    Attributes:
        name: Recorded in traces.
        instructions: One sentence for the prompts: how the answer is to be written.
    """

    name: str
    instructions: str

    def parse(self, text: str) -> str | None:
        """Read the answer out of a response. Return None if there is none. Never raise."""
        ...

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two parsed answers are the same answer."""
        ...


def schema_for(schema: AnswerSchema, question: str) -> AnswerSchema:
    """Return the schema that compares answers to this question: as a rule, the schema itself.

    Raises:
        ConfigurationError: A schema of one's own failed.
    """
    bind: Callable[[str], AnswerSchema] | None = getattr(schema, "for_question", None)
    if bind is None:
        return schema
    with plugged_in(f"for_question of the answer schema {schema.name!r}"):
        return bind(question)


def is_async(function: Any) -> bool:
    """Tell whether calling it gives a coroutine: it, or its `__call__`, is a coroutine function."""
    called = getattr(function, "__call__", None)  # noqa: B004 - of an object with an async one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def refuse_async(function: Any, name: str) -> None:
    """Refuse a function that returns a coroutine: it would count as true.

    Raises:
        ConfigurationError: It is asynchronous.
    """
    if is_async(function):
        raise ConfigurationError(f"{name} must be a plain function, not an async one: {function!r}")


def assign_clusters(
    answers: Sequence[str | None], representatives: Sequence[str], same: Callable[[str, str], bool]
) -> tuple[list[int | None], list[str]]:
    """Sort answers into clusters of equivalent ones.

    An answer joins the first cluster whose representative it equals or is equivalent to, in
    either order. Else it founds a new one. With the representatives of earlier rounds the clusters
    keep their numbers.

    Args:
        answers: Parsed answers. None for a response without one.
        representatives: One answer per cluster known so far.
        same: Tells whether two answers are equivalent, as `AnswerSchema.equivalent` does.

    Returns:
        The index of every answer's cluster (None for None), and the representatives with the new
        ones at the end.

    Example:
        >>> from mpdf_langgraph import MathAnswer
        >>> assign_clusters(["1000", "7", None, "1,000"], [], MathAnswer().equivalent)
        ([0, 1, None, 0], ['1000', '7'])
    """
    known = list(representatives)
    labels: list[int | None] = []
    for answer in answers:
        if answer is None:
            labels.append(None)
            continue
        if answer in known:
            labels.append(known.index(answer))
            continue
        for index, other in enumerate(known):
            if same(answer, other) or same(other, answer):
                labels.append(index)
                break
        else:
            labels.append(len(known))
            known.append(answer)
    return labels, known
