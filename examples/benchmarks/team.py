"""The team of an evaluation, one question at a time and graded as a benchmark does."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from examples.benchmarks.loaders import Benchmark
from mpdf_langgraph import AnswerSchema
from training.collect.questions import Question
from training.collect.team import Source
from training.evaluate.methods import Setting
from training.evaluate.runner import Bench
from training.evaluate.shared_samples import one_question

T = TypeVar("T")


class Team(Bench):
    """The team and its samples, as an evaluation has them; it grades as the benchmark does.

    Args:
        benchmark: Grades.
        schema: Reads and compares answers.
        source: Whom to ask.
        setting: See `Setting`.
        folder: Where the samples lie.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        schema: AnswerSchema,
        source: Source,
        setting: Setting,
        folder: Path,
    ) -> None:
        super().__init__(
            source,
            folder,
            critic=setting.critic,
            consensus=setting.consensus,
            rounds=setting.rounds,
            seed=setting.seed,
        )
        self.schema = self._given["answer"] = schema
        self.benchmark = benchmark

    def is_right(self, question: Question, answer: str | None) -> bool:
        """Grade as the benchmark does; no answer is wrong."""
        key = (str(answer), str(question.reference))
        if key not in self._verdicts:
            self._verdicts[key] = self.benchmark.grade(self.schema, answer, question)
        return self._verdicts[key]

    def remember(self, question: Question, answer: str | None, right: bool) -> None:
        """Take over an earlier verdict: testing a program again would take its time again."""
        self._verdicts[str(answer), str(question.reference)] = right

    def tell(self, label: str, question: Question, error: Exception) -> None:
        """Say nothing: the question's row will, and the end of the run."""

    async def every(
        self, label: str, questions: Sequence[Question], one: Callable[[Question], Awaitable[T]]
    ) -> list[T | None]:
        """Call `one` on every question; unlike an evaluation, show nothing and raise errors on."""
        results: list[T | None] = []
        for question in questions:
            with one_question(self.seed):
                results.append(await one(question))
        return results
