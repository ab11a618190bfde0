"""A row per question: the results of all methods, on file as soon as they are there."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mpdf_langgraph.errors import describe_error
from training.collect.asking import for_each
from training.collect.files import atomic_write
from training.collect.questions import Question
from training.evaluate.bench import Bench
from training.evaluate.compare import CONTROL, MethodResult, summarise
from training.evaluate.methods import Method, Play
from training.evaluate.votes import Result

Row = dict[str, Any]
#: The runs of a question by method, as `run_methods` returns them.
Runs = Mapping[str, list[Row]]
RunMethods = Callable[[Question, Sequence[Method]], Awaitable[Runs]]


@dataclass
class Rows:
    """The rows of an evaluation, in memory and in a file that a stop cannot harm.

    A row holds a question's `id`, a `key` and, under `methods`, a list of runs by the name of the
    method (see `run_methods`). While an evaluation runs, the last row of a question counts. In the
    end there is one row per question, in the order of the questions.

    Attributes:
        path: JSON Lines.
        tuned: What the results depend on besides the folder's settings, such as values tuned on
            validation questions. A row made with other values does not count.
    """

    path: Path
    tuned: Mapping[str, Any] = field(default_factory=dict)
    _rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    row = orjson.loads(line)
                    row["key"], dict(row["methods"])
                    self._rows[row["id"]] = row
                except (KeyError, TypeError, ValueError):
                    continue  # torn by a stop: its question is asked again
        self._file = self.path.open("ab", buffering=0)

    def _key(self, question: Question) -> str:
        if not self.tuned:
            return question.key
        content = json.dumps([question.key, self.tuned], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def get(self, question: Question) -> dict[str, list[Row]]:
        """Return a question's runs by method. Empty: it has none."""
        row = self._rows.get(question.id)
        found = row is not None and row.get("key") == self._key(question)
        return dict(row["methods"]) if row is not None and found else {}

    def missing(self, question: Question, methods: Sequence[Method]) -> list[Method]:
        """Return the methods that have not answered a question, or have failed to.

        A router's control is run again with it, as it replays the router's decisions.
        """
        known = self.get(question)
        names = {
            m.name
            for m in methods
            if [run.get("router") for run in known.get(m.name, [])] != [v for v, _ in m.runs]
            or any("error" in run for run in known[m.name])
        }
        return [m for m in methods if m.name in names or m.name.removesuffix(CONTROL) in names]

    def put(self, question: Question, runs: Runs) -> None:
        """Add runs to a question's row. They are on disk when this returns."""
        methods = {**self.get(question), **runs}
        row = {"id": question.id, "key": self._key(question), "methods": methods}
        self._rows[question.id] = row
        # The newline comes first, so that a torn line swallows no other.
        self._file.write(b"\n" + orjson.dumps(row))

    def close(self, questions: Sequence[Question]) -> None:
        """Leave one row per question in the file: these questions first, in their order."""
        self._file.close()
        order = {question.id: place for place, question in enumerate(questions)}
        ordered = sorted(self._rows.values(), key=lambda row: order.get(row["id"], len(order)))
        with atomic_write(self.path) as draft:
            draft.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ordered))


async def run_methods(bench: Bench, question: Question, methods: Sequence[Method]) -> Runs:
    """Run methods on one question, one after the other.

    Returns:
        The runs of each method by its name, one per seed. A run has `answer`, `right`, `tokens`,
        `calls` and `actions`. It has `confidence` if that is known, `failures` if calls failed,
        `unreported` if some told no tokens, `gaps` if a proposal or a refinement failed, `router`
        (its version) if there is one, and `error` if the run failed.
    """
    play = Play(bench, question, methods)
    runs: dict[str, list[Row]] = {}
    for method in methods:
        for version, ask in method.runs:
            run: Row = {} if version is None else {"router": version}
            try:
                result = await ask(play)
                result = await asyncio.to_thread(bench.grade, question, result)
                run |= {"answer": result.answer, "right": result.right, "tokens": result.tokens}
                run |= {"calls": result.calls, "actions": result.actions}
                if result.confidence is not None:
                    run["confidence"] = result.confidence
                if result.failures:
                    run["failures"] = result.failures
                for name in ("unreported", "gaps"):
                    if count := getattr(result, name):
                        run[name] = count
                if result.failed:
                    run["error"] = next(iter(result.failures), "no call gave a response")
            except Exception as error:  # of any kind: the other questions must be answered
                run = failed_run(version, error)
            runs.setdefault(method.name, []).append(run)
    return runs


def failed_run(version: str | None, error: Exception) -> Row:
    """Return the run of a method that raised an error. `version` is that of its router, if any."""
    run = {} if version is None else {"router": version}
    return {**run, "error": describe_error(error)}


async def measure(
    run: RunMethods,
    questions: Sequence[Question],
    methods: Sequence[Method],
    *,
    concurrency: int,
    label: str,
    rows: Rows | None = None,
) -> list[Runs]:
    """Run methods on questions, a few at a time.

    Args:
        run: Runs some methods on one question: `run_methods`, here or elsewhere.
        questions: What to ask.
        methods: What to run.
        concurrency: Questions at a time.
        label: Stands before the progress bar.
        rows: Where finished runs are kept, and found again.

    Returns:
        The runs of each question, in their order.
    """

    async def work(question: Question) -> Runs:
        missing = methods if rows is None else rows.missing(question, methods)
        runs = await run(question, missing)
        if rows is not None:
            rows.put(question, runs)
        return runs

    if rows is None:
        todo = list(questions)
    else:
        todo = [question for question in questions if rows.missing(question, methods)]
        print(f"{len(questions)} questions, {len(questions) - len(todo)} of them finished already")
    runs = await for_each(
        todo, work, concurrency=concurrency, label=label, has_failed=lambda r: bool(errors_of([r]))
    )
    return runs if rows is None else [rows.get(question) for question in questions]


def errors_of(runs: Sequence[Runs]) -> Counter[str]:
    """Return how often each error ended a run."""
    return Counter(
        run["error"]
        for by_method in runs
        for seeds in by_method.values()
        for run in seeds
        if "error" in run
    )


def summarise_runs(runs: Sequence[Runs], methods: Sequence[Method]) -> dict[str, MethodResult]:
    """Return the results of every method over the questions, linked to their controls.

    Args:
        runs: The runs of each question.
        methods: All of them were run.
    """
    results = {}
    for method in methods:
        seeds = range(len(method.runs))
        by_seed = [[_result(one[method.name][seed]) for one in runs] for seed in seeds]
        results[method.name] = summarise(method.name, method.kind, by_seed)
    return results


def _result(run: Row) -> Result | None:
    """Return a run's result. None: it left nothing behind."""
    if "answer" not in run:
        return None
    return Result(
        run["answer"],
        run["tokens"],
        run["calls"],
        run["actions"],
        failed="error" in run,
        confidence=run.get("confidence"),
        failures=tuple(run.get("failures", ())),
        unreported=run.get("unreported", 0),
        gaps=run.get("gaps", 0),
        right=run["right"],
    )
