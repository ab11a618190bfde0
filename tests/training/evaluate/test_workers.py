"""Evaluating on Ray: what is killed, the rows are those of a run without Ray."""

import asyncio
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tyro

from tests.support import riddles
from tests.support.clusters import (
    FakeRay,
    Killer,
    RayError,
    finish,
    needs_ray,
    own_cluster,
    start,
    teacher,
)
from training.collect import on_ray
from training.evaluate.evaluation import evaluate
from training.evaluate.options import EvaluateOptions

COUNT = 12  # questions to test, and half as many to validate


@pytest.fixture
def home() -> Iterator[dict[str, str]]:
    with own_cluster() as environment:
        yield environment


def write_questions(path: Path, count: int) -> str:
    rows = [
        {"question": f"What is {n} of {path.stem}?", "reference": "1",
         "contexts": {f"agent-{a}": f"Note {a}" for a in (1, 2, 3)}}
        for n in range(count)
    ]  # fmt: skip
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def arguments(folder: Path, out: str, url: str, *more: str) -> list[str]:
    return [
        "-m", "training.evaluate", "--out", str(folder / out), "--base-url", url,
        "--questions", write_questions(folder / "test.jsonl", COUNT),
        "--validation", write_questions(folder / "validation.jsonl", COUNT // 2),
        "--bars", "0.5", "0.9", "--gaps", "0.05", "--rounds", "1", "--critic", "logprob",
        "--methods", "vote-3", "greedy", "debate-1", "random", "threshold", "--concurrency", "4",
        *more,
    ]  # fmt: skip


def rows(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def samples(folder: Path) -> Counter[str]:
    """The keys of all samples, in whatever file."""
    found: Counter[str] = Counter()
    for path in folder.rglob("samples-0.jsonl"):
        for line in path.read_text().splitlines():
            try:
                found[json.loads(line)["key"]] += 1
            except ValueError:
                continue  # blank, or torn by a kill
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without Ray."""
    folder = tmp_path_factory.mktemp("alone")
    with teacher() as server:
        finish(arguments(folder, "alone", server.url), dict(os.environ))
    assert len(rows(folder / "alone")) == COUNT
    return folder / "alone"


@needs_ray
@pytest.mark.integration
@pytest.mark.timeout(3600)  # a minute, and far more on a busy machine
def test_killed_workers_lose_and_double_nothing(
    tmp_path: Path, home: dict[str, str], alone: Path
) -> None:
    """Workers are killed while the baselines are calibrated and tuned, and in the test."""
    total = samples(alone).total()
    killer = Killer(tmp_path / "ray", [total // 6, total // 2, total * 5 // 6])
    with teacher(killer) as server:
        given = arguments(tmp_path, "ray", server.url, "--ray", "local", "--workers", "2")
        told = finish(given, home)
    assert killer.kills == 3
    assert len(list((tmp_path / "ray").glob("worker-*"))) >= 4  # three were killed
    assert f"{COUNT}/{COUNT}" in told
    assert rows(tmp_path / "ray") == rows(alone)
    assert samples(tmp_path / "ray") == samples(alone)
    table, expected = ((folder / "results.md").read_text() for folder in (tmp_path / "ray", alone))
    assert table == expected


@needs_ray
@pytest.mark.integration
@pytest.mark.timeout(3600)  # a minute, and far more on a busy machine
def test_a_killed_driver_loses_and_doubles_nothing(
    tmp_path: Path, home: dict[str, str], alone: Path
) -> None:
    """Its run goes on without Ray, and reads what the workers have left."""
    total = samples(alone).total()
    driver: list[subprocess.Popen[str]] = []
    calls = 0

    def kill() -> None:
        nonlocal calls
        calls += 1
        if calls == total * 2 // 3:
            driver[0].kill()

    with teacher(kill) as server:
        given = arguments(tmp_path, "ray", server.url)
        driver.append(start([*given, "--ray", "local", "--workers", "2"], home))
        driver[0].communicate()
        assert driver[0].returncode == -signal.SIGKILL
        finish(given, home)
    assert rows(tmp_path / "ray") == rows(alone)
    assert samples(tmp_path / "ray").keys() == samples(alone).keys()


# --- what is rare, with a cluster that does what a test says ------------------------------------


def riddle_options(folder: Path, out: str, *more: str) -> EvaluateOptions:
    router = folder / "hedger"
    if not router.exists():
        riddles.router(router, critic="logprob")
    words = [
        "--questions", str(riddles.questions(folder / "test.jsonl", "AABB")),
        "--validation", str(riddles.questions(folder / "validation.jsonl", "AB")),
        "--model-factory", "tests.support.clusters:make", "--router", str(router),
        "--out", str(folder / out), "--bars", "0.5", "0.9", "--gaps", "0.01", "--rounds", "1",
        "--critic", "logprob", "--methods", "vote-3", "debate-1", "random", "threshold", *more,
    ]  # fmt: skip
    return tyro.cli(EvaluateOptions, args=words)


def run_on(ray: FakeRay, options: EvaluateOptions) -> None:
    @contextmanager
    def connect(*_: Any) -> Iterator[tuple[FakeRay, int]]:
        yield ray, 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "connect", connect)
        asyncio.run(evaluate(options))
    for actor in ray.actors:
        actor.work.close()


def test_a_lost_workers_samples_are_not_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(evaluate(riddle_options(tmp_path, "alone")))
    asks = 0

    async def ask(actor: Any, job: Any, lost: Sequence[Path]) -> Any:
        nonlocal asks
        asks += 1
        doomed = asks % 3 == 0
        result = await actor.work(job, lost)
        if doomed:
            raise RayError("lost")  # when all is drawn, and nothing told
        return result

    ray = FakeRay(ask, lambda: None)
    run_on(ray, riddle_options(tmp_path, "ray", "--ray", "local"))
    assert len(ray.actors) > 3
    assert rows(tmp_path / "ray") == rows(tmp_path / "alone")
    assert samples(tmp_path / "ray") == samples(tmp_path / "alone")
    assert set(samples(tmp_path / "ray").values()) == {1}
    capsys.readouterr()
    asyncio.run(evaluate(riddle_options(tmp_path, "ray", "--methods", "vote-3", "debate-1")))
    assert "\n0 samples drawn" in capsys.readouterr().out  # it reads those of the workers


def test_a_question_that_kills_its_workers_has_failed(tmp_path: Path) -> None:
    async def ask(actor: Any, job: Any, lost: Sequence[Path]) -> Any:
        if "A1" in job.question.question:
            raise RayError("lost")
        return await actor.work(job, lost)

    options = riddle_options(tmp_path, "ray", "--ray", "local")
    run_on(FakeRay(ask, lambda: None), options)
    failed, *others = rows(tmp_path / "ray")
    error = "WorkerLostError: lost with its worker, 5 times"
    assert {run["error"] for runs in failed["methods"].values() for run in runs} == {error}
    [run] = failed["methods"]["hedger"]
    [known] = others[0]["methods"]["hedger"]
    assert run == {"router": known["router"], "error": error}
    assert not any("error" in r for o in others for runs in o["methods"].values() for r in runs)
    asyncio.run(evaluate(riddle_options(tmp_path, "ray")))  # a run without Ray asks it again
    assert "error" not in str(rows(tmp_path / "ray"))
