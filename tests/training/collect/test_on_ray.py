"""Collecting on Ray: what is killed, every question has one episode in the end."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tyro
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import Agent, ConfigurationError, TraceReader, create_deliberation
from tests.support.clusters import (
    FakeRay,
    Killer,
    RayError,
    finish,
    needs_ray,
    own_cluster,
    start,
    teacher,
    workers,
)
from tests.support.paths import ROOT
from training.collect import collecting, on_ray
from training.collect.asking import Answered, RayOptions, WorkerLostError, ask_question
from training.collect.questions import Question, read_questions

COUNT = 72  # questions, 9 calls each


# --- a real cluster -----------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[dict[str, str]]:
    with own_cluster() as environment:
        yield environment


def arguments(folder: Path, out: str, url: str, *more: str) -> list[str]:
    questions = folder / "questions.jsonl"
    # Two questions are equal: each of them has an episode of its own.
    rows = [
        {"question": f"What is {n // 2 if n < 2 else n}?", "reference": "1",
         "contexts": {f"agent-{a}": f"Note {a}" for a in (1, 2, 3)}}
        for n in range(COUNT)
    ]  # fmt: skip
    questions.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return [
        "-m", "training.collect", "--questions", str(questions), "--out", str(folder / out),
        "--base-url", url, "--critic", "logprob", "--router", "always-refine", "--rounds", "1",
        "--alternatives", "1", "--concurrency", "4", *more,
    ]  # fmt: skip


def proposals(folder: Path) -> Counter[Any]:
    """What the folder's episodes asked, and what was proposed."""
    return Counter(
        (e.question, *(e.responses[f"agent-{k}@0"]["answer"] for k in (1, 2, 3)))
        for e in TraceReader(folder)
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Counter[Any]:
    """What a run without Ray proposes."""
    folder = tmp_path_factory.mktemp("alone")
    with teacher() as server:
        finish(arguments(folder, "alone", server.url), dict(os.environ))
    found = proposals(folder / "alone")
    assert found.total() == COUNT
    assert max(found.values()) == 2
    return found


@needs_ray
@pytest.mark.integration
@pytest.mark.timeout(3600)  # a minute, and far more on a busy machine
def test_killed_workers_lose_and_double_nothing(
    tmp_path: Path, home: dict[str, str], expected: Counter[Any]
) -> None:
    killer = Killer(tmp_path / "ray", [120, 240, 360, 480])
    with teacher(killer) as server:
        given = arguments(tmp_path, "ray", server.url, "--ray", "local", "--workers", "2")
        told = finish(given, home)
    assert killer.kills == 4
    assert len(list((tmp_path / "ray").glob("worker-*"))) >= 6
    assert f"{COUNT}/{COUNT}" in told
    assert proposals(tmp_path / "ray") == expected


@needs_ray
@pytest.mark.integration
@pytest.mark.timeout(3600)  # a minute, and far more on a busy machine
def test_a_killed_driver_loses_and_doubles_nothing(
    tmp_path: Path, home: dict[str, str], expected: Counter[Any]
) -> None:
    calls = 0
    driver: list[subprocess.Popen[str]] = []

    def kill() -> None:
        nonlocal calls
        calls += 1
        if calls == 300:
            driver[0].kill()

    with teacher(kill) as server:
        given = arguments(tmp_path, "ray", server.url, "--ray", "local", "--workers", "2")
        driver.append(start(given, home))
        driver[0].communicate()
        assert driver[0].returncode == -signal.SIGKILL
        told = finish(given, home)
    assert f"{COUNT} questions, 0 of them finished already" not in told
    # A run without Ray would have nothing left to do.
    questions = read_questions(tmp_path / "questions.jsonl")
    assert collecting.find_unfinished(questions, tmp_path / "ray")[0] == []
    assert proposals(tmp_path / "ray") == expected


@needs_ray
@pytest.mark.integration
@pytest.mark.timeout(3600)  # a minute, and far more on a busy machine
def test_a_lost_node_loses_and_doubles_nothing(
    tmp_path: Path, home: dict[str, str], expected: Counter[Any]
) -> None:
    calls = 0
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.ray_nodes"],
        cwd=ROOT, env=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as cluster:  # fmt: skip
        assert cluster.stdin is not None
        assert cluster.stdout is not None

        def kill() -> None:
            nonlocal calls
            calls += 1
            if calls == 300:
                assert len(workers(tmp_path / "ray")) == 2
                print("lose one", file=cluster.stdin, flush=True)
                assert cluster.stdout.readline() == "gone\n"

        address = cluster.stdout.readline().strip()
        with teacher(kill) as server:
            # The node is not replaced: its worker waits for room, and the other one does it all.
            told = finish(arguments(tmp_path, "ray", server.url, "--ray", address), home)
        cluster.stdin.close()
    assert calls > 300
    assert f"{COUNT}/{COUNT}" in told
    assert proposals(tmp_path / "ray") == expected


@needs_ray
@pytest.mark.integration
@pytest.mark.timeout(3600)  # a minute, and far more on a busy machine
def test_no_cluster_is_told_in_a_line(tmp_path: Path, home: dict[str, str]) -> None:
    with (
        teacher() as server,
        start(arguments(tmp_path, "ray", server.url, "--ray", "auto"), home) as process,
    ):
        told, _ = process.communicate()
    assert process.returncode == 2
    assert "error: no Ray cluster at 'auto'" in told
    assert "Traceback" not in told


@needs_ray
def test_an_address_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as bound:  # it does not listen
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        for form in (address, f"ray://{address}"):
            with (
                pytest.raises(ConfigurationError, match=f"no Ray cluster at '{form}'"),
                on_ray.connect(RayOptions(ray=form), tmp_path),
            ):
                raise AssertionError


# --- what is rare, with a cluster that does what a test says ------------------------------------


def build(folder: Path) -> Any:
    team = [Agent(name, RunnableLambda(lambda _: "The answer is 1")) for name in ("a", "b")]
    graph = create_deliberation(team, critic=None, consensus="majority", traces=folder).compile()
    return lambda question, _: ask_question(graph, question)


def asked(ray: FakeRay, folder: Path, questions: list[Question], count: int = 1) -> list[Answered]:
    async def run() -> list[Answered]:
        async with on_ray.run_workers(ray, build, collecting.find_left, folder, count, 8) as ask:
            return await asyncio.gather(*map(ask, questions))

    return asyncio.run(run())


SAME = [Question(str(n), "Same?", "1", {}) for n in range(4)]


@pytest.mark.filterwarnings("ignore:all 2 agents proposed the very same")
@pytest.mark.parametrize("reported", [0, 1, 2])
def test_equal_questions_of_a_lost_worker_are_told_apart(tmp_path: Path, reported: int) -> None:
    """Three of four equal questions were answered, and the driver got some of the replies."""
    asks = 0

    async def ask(actor: Any, question: Question, lost: Sequence[Path]) -> Answered:
        nonlocal asks
        asks += 1
        number = asks
        if number == 4:
            raise RayError("lost")  # it is told at once, and all replies come later
        answered: Answered = await actor.work(question, lost)
        if reported < number < 4:
            raise RayError("lost")
        return answered

    ray = FakeRay(ask, lambda: None)
    done = asked(ray, tmp_path, SAME)
    assert [one.question for one in done] == SAME
    assert not any(one.error for one in done)
    assert (asks, len(ray.actors)) == (5, 2)
    episodes = [one.deliberation["episode"] for one in done if one.deliberation]
    assert sorted(episodes) == sorted(episode.id for episode in TraceReader(tmp_path))
    assert len(set(episodes)) == 4


def test_a_question_that_kills_its_workers_fails_in_the_end(tmp_path: Path) -> None:
    async def ask(actor: Any, question: Question, lost: Sequence[Path]) -> Answered:
        raise RayError("lost")

    ray = FakeRay(ask, lambda: None)
    with pytest.raises(WorkerLostError, match="lost with its worker, 5 times"):
        asked(ray, tmp_path, SAME[:1])
    assert len(ray.actors) >= 5


def test_workers_that_do_not_start_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_pause(seconds: float) -> None:
        pauses.append(seconds)

    def fail() -> None:
        error = RayError("a task failed")
        error.cause = ValueError("no such module")  # type: ignore[attr-defined]
        raise error

    pauses: list[float] = []
    monkeypatch.setattr(on_ray.asyncio, "sleep", no_pause)
    ray = FakeRay(lambda *_: None, fail)
    with pytest.raises(ConfigurationError, match="no worker starts: ValueError: no such module"):
        asked(ray, tmp_path, SAME, count=2)
    assert len(ray.actors) == 10
    assert sorted(pauses) == [0, 0, 2, 2, 4, 4, 8, 8, 16, 16]


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be a folder that all nodes share"):
        asyncio.run(on_ray._Actor().start(build, tmp_path / "elsewhere"))


def test_a_worker_holds_its_folder_until_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "worker-1"
    folder.mkdir()
    assert not on_ray.is_alive(folder)
    code = f"""
import asyncio, pathlib
from training.collect import on_ray
actor = on_ray._Actor()
asyncio.run(actor.start(lambda folder: None, pathlib.Path({str(folder)!r})))
print(flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        assert worker.stdout is not None
        worker.stdout.readline()
        assert on_ray.is_alive(folder)
        monkeypatch.setattr(on_ray.time, "sleep", lambda _: worker.kill())
        on_ray.wait_for_earlier_workers(tmp_path)
    assert not on_ray.is_alive(folder)
    told = capsys.readouterr().out
    assert (
        told == f"waiting for a worker of another run to end: {socket.gethostname()} {worker.pid}\n"
    )


def test_without_ray_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with teacher() as server:
        words = arguments(tmp_path, "ray", server.url, "--ray", "local")[2:]
        options = tyro.cli(collecting.CollectOptions, args=words)
        assert collecting.main(options) == 2
    told = capsys.readouterr().err
    assert told == "error: --ray needs Ray. Install it: python -m pip install --group scale\n"
