"""Puts many questions to a team, a few at a time, under a progress bar."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from mpdf_langgraph.errors import ConfigurationError, MPDFError, describe_error
from training.collect.questions import Question
from training.command import check_least

S = TypeVar("S")
T = TypeVar("T")


class WorkerLostError(MPDFError):
    """A question has lost so many workers that it may be what kills them."""


@dataclass(frozen=True)
class RayOptions:
    """Where questions are asked from: this process, or a Ray cluster."""

    ray: str | None = None
    """Ask on a Ray cluster: its address, `auto` for the one that runs here, or `local` to start one
    on this machine. --out must then be a folder that all nodes share."""
    workers: int | None = None
    """Workers on Ray. Each takes a CPU. Default: as many as the cluster has CPUs."""

    def check(self) -> None:
        """Refuse options that cannot work.

        Raises:
            ConfigurationError: Says which option is wrong.
        """
        if self.workers is not None and self.ray is None:
            raise ConfigurationError("--workers is for --ray alone")
        check_least(self, workers=1)


async def for_each(
    items: Sequence[S],
    work: Callable[[S], Awaitable[T]],
    *,
    concurrency: int,
    label: str,
    has_failed: Callable[[T], bool],
) -> list[T]:
    """Do some work for every item.

    Args:
        items: Questions, say.
        work: What to do. It catches the errors that must not stop the other items.
        concurrency: Items at a time.
        label: Stands before the progress bar.
        has_failed: Tells from a result whether something went wrong. The bar shows how often.

    Returns:
        The results, in the order of the items.
    """
    gate = asyncio.Semaphore(concurrency)
    failed = 0

    async def do(item: S) -> T:
        nonlocal failed
        async with gate:
            result = await work(item)
        failed += has_failed(result)
        bar.set_postfix(failed=failed, refresh=False)
        bar.update()
        return result

    with tqdm(total=len(items), desc=label, unit="question", mininterval=0.5) as bar:
        return await asyncio.gather(*(do(item) for item in items))


@dataclass(frozen=True)
class Answered:
    """A question and what the graph made of it.

    Attributes:
        deliberation: The graph's outcome. None: the deliberation raised an error.
        error: What went wrong: the error raised, else the proposals that failed, else that the
            trace was not stored. None: nothing.
    """

    question: Question
    deliberation: dict[str, Any] | None
    error: str | None


Ask = Callable[[Question], Awaitable[Answered]]


async def ask_question(graph: Any, question: Question) -> Answered:
    """Ask a compiled graph (`create_deliberation(...).compile()`) a question. Raises no error."""
    try:
        deliberation = (await graph.ainvoke(question.input()))["deliberation"]
    except Exception as error:  # of any kind: the other questions must be answered
        return Answered(question, None, describe_error(error))
    return Answered(question, deliberation, find_fault(deliberation))


def find_fault(deliberation: Mapping[str, Any]) -> str | None:
    """Return why a question must be asked again, given its outcome. None: it is finished."""
    faults = [f for f in deliberation["failures"] if f.partition(": ")[0].endswith(" propose")]
    if stored := deliberation.get("trace_error"):
        faults.append(f"the trace was not stored: {stored}")
    return "; ".join(faults) or None


async def ask_all(
    ask: Ask,
    questions: Sequence[Question],
    concurrency: int,
    label: str,
    on_failure: Callable[[Answered], None] | None = None,
) -> list[Answered]:
    """Ask all questions.

    Args:
        ask: Asks one. It catches the errors that must not stop the others.
        questions: What to ask.
        concurrency: Deliberations at a time.
        label: Stands before the progress bar.
        on_failure: Called at once with every question that went wrong.

    Returns:
        One result per question, in their order. A failure does not stop the others.
    """

    async def ask_and_note(question: Question) -> Answered:
        answered = await ask(question)
        if answered.error is not None and on_failure:
            on_failure(answered)
        return answered

    return await for_each(
        questions,
        ask_and_note,
        concurrency=concurrency,
        label=label,
        has_failed=lambda answered: answered.error is not None,
    )
