"""Who runs methods on the questions: this process, or the workers of a Ray cluster.

Every worker has a bench of its own, and a file of samples in a folder of its own. It also reads the
samples that were drawn before it started, and in the stages before. If a worker is lost, whoever
gets one of its questions first reads the samples that it has left, so none of them is drawn again.
The rows are written by the driver alone.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mpdf_langgraph import Calibration, Episode
from mpdf_langgraph.router import Router
from training.collect.asking import WorkerLostError
from training.collect.questions import Question
from training.evaluate.bench import Bench
from training.evaluate.methods import Method, select
from training.evaluate.options import EvaluateOptions
from training.evaluate.routers import open_routers
from training.evaluate.rows import Runs, failed_run, run_methods
from training.evaluate.tuning import tried_methods


@dataclass(frozen=True)
class Stage:
    """What all questions of a part of an evaluation have in common.

    Attributes:
        options: With the tuned values, once they are known.
        calibration: Of the confidences. None: they stay as they are.
        tuning: The values are being tuned.
    """

    options: EvaluateOptions
    calibration: Calibration | None = None
    tuning: bool = False

    def methods(self, bench: Bench, routers: Mapping[str, Sequence[Router]]) -> list[Method]:
        """Return the methods that are run."""
        options = self.options
        if self.tuning:
            tried = tried_methods(bench, options)
            return [method for those in tried.values() for method in those.values()]
        names, agents = options.method_names(), len(bench.agents)
        return select(names, routers, options, agents, control=options.control)


class Here:
    """Runs methods in this process.

    Attributes:
        bench: The team.
        concurrency: Questions at a time.
    """

    def __init__(self, bench: Bench, concurrency: int) -> None:
        self.bench, self.concurrency = bench, concurrency

    def begin(self, stage: Stage) -> None:
        """Begin a stage."""
        self.bench.use_calibration(stage.calibration)

    async def debate(self, question: Question) -> Episode | None:
        """Run the debate that calibrates. None: it failed."""
        return await self.bench.debate(question)

    async def run(self, question: Question, methods: Sequence[Method]) -> Runs:
        """Run some of the stage's methods."""
        return await run_methods(self.bench, question, methods)


@asynccontextmanager
async def open_runner(options: EvaluateOptions, bench: Bench) -> AsyncIterator[Here]:
    """Give who runs the methods. Workers on Ray are started first, and ended afterwards."""
    if options.cluster.ray is None:
        yield Here(bench, options.concurrency)
        return
    from training.collect import on_ray  # file locks, which Windows does not have

    routers = tuple(Path.cwd() / folder for folder in options.router)
    shared = Path.cwd() / options.out
    with on_ray.connect(options.cluster, shared) as (ray, count):
        build = partial(_Worker, replace(options, router=routers), shared)
        async with on_ray.run_workers(
            ray, build, lambda *_: lambda _: None, shared, count, options.concurrency
        ) as ask:
            yield _OnRay(bench, count * options.concurrency, ask)


@dataclass(frozen=True)
class _Job:
    """A question, and the names of the methods to run. None: the debate that calibrates."""

    question: Question
    stage: Stage
    methods: tuple[str, ...] | None


class _OnRay(Here):
    """Has methods run by the workers of a Ray cluster."""

    def __init__(
        self, bench: Bench, concurrency: int, ask: Callable[[_Job], Awaitable[Any]]
    ) -> None:
        super().__init__(bench, concurrency)
        self._ask_worker = ask

    def begin(self, stage: Stage) -> None:
        super().begin(stage)
        self._stage = stage

    async def _ask(self, question: Question, methods: tuple[str, ...] | None) -> Any:
        result, counts = await self._ask_worker(_Job(question, self._stage, methods))
        self.bench.samples.counts += counts
        return result

    async def debate(self, question: Question) -> Episode | None:
        try:
            episode: Episode | None = await self._ask(question, None)
        except WorkerLostError:
            return None
        return episode

    async def run(self, question: Question, methods: Sequence[Method]) -> Runs:
        try:
            runs: Runs = await self._ask(question, tuple(method.name for method in methods))
        except WorkerLostError as error:
            runs = {m.name: [failed_run(version, error) for version, _ in m.runs] for m in methods}
        return runs


class _Worker:
    """What runs in the process of a worker. It is called with a job."""

    def __init__(self, options: EvaluateOptions, shared: Path, folder: Path) -> None:
        self._here = Here(options.open_bench(folder, shared=shared), options.concurrency)
        self._shared = shared
        self._routers = open_routers(options.router, options)
        self._stage: Stage | None = None
        self._methods: dict[str, Method] = {}
        self._lost: set[Path] = set()

    def close(self) -> None:
        """Close the file of samples."""
        self._here.bench.close()

    async def __call__(self, job: _Job, lost: Sequence[Path]) -> tuple[Any, Counter[str]]:
        """Return the result, and the counts of samples since the last one."""
        samples = self._here.bench.samples
        samples.read(folder for folder in lost if folder not in self._lost)
        self._lost.update(lost)
        if job.stage != self._stage:
            # In the stage before, which is over, other workers may have had the same questions.
            samples.read(sorted(self._shared.glob("worker-*/")))
            self._stage = job.stage
            self._here.begin(job.stage)
            methods = job.stage.methods(self._here.bench, self._routers)
            self._methods = {method.name: method for method in methods}
        result: Any
        if job.methods is None:
            result = await self._here.debate(job.question)
        else:
            methods = [self._methods[name] for name in job.methods]
            result = await self._here.run(job.question, methods)
        counts, samples.counts = samples.counts, Counter()
        return result, counts
