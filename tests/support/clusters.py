"""Ray clusters: real ones on this machine, with a server to ask, and one in this process."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.scripted import Scripted
from tests.support.server import Server, cards, completion

needs_ray = pytest.mark.skipif(
    shutil.which("ray", path=Path(sys.executable).parent) is None,
    reason="Ray is missing: python -m pip install --group scale",
)


@contextmanager
def own_cluster() -> Iterator[dict[str, str]]:
    """The environment of a cluster of its own. Ray's sockets want a short path."""
    folder = tempfile.mkdtemp(prefix="r")
    own = {"HOME": folder, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    own["RAY_worker_niceness"] = "0"  # else workers starve on a busy machine
    yield {**os.environ, **own}
    shutil.rmtree(folder, ignore_errors=True)


def teach(said: str) -> str:
    """An answer that depends on the words of the request."""
    return f"The answer is {zlib.crc32(said.encode()) % 3}"


def make() -> Scripted:
    """A model that answers as `teach` does."""
    return Scripted(reply=lambda request: teach(request.text), logprob=-0.3)


@contextmanager
def teacher(then: Callable[[], None] = lambda: None) -> Iterator[Server]:
    """A server that answers as `teach` does. `then` runs before each answer."""
    one_at_a_time = threading.Lock()

    def chat(body: dict[str, Any]) -> tuple[int, Any]:
        with one_at_a_time:
            then()
        said = "\n".join(str(message["content"]) for message in body["messages"])
        status, content = completion(body)
        content["choices"][0]["message"]["content"] = teach(said)
        return status, content

    with Server() as server:
        server.routes = {"/v1/models": lambda _: (200, cards("m")), "/v1/chat/completions": chat}
        yield server


def start(words: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(words: list[str], environment: dict[str, str]) -> str:
    with start(words, environment) as process:
        told, _ = process.communicate()
    assert process.returncode == 0, told
    return told


def workers(folder: Path) -> list[int]:
    """The processes of the workers that are alive."""
    pids = [
        int(lock.read_text().split()[1]) for lock in folder.glob("*/lock") if lock.stat().st_size
    ]
    alive = []
    for pid in pids:
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
                alive.append(pid)
    return alive


class Killer:
    """Kills a worker in the middle of a request, once so many requests have arrived.

    It counts the requests as they are answered (see `teacher`). `kills` tells how many workers it
    has killed.
    """

    def __init__(self, folder: Path, at: Sequence[int]) -> None:
        self.folder, self.at, self.calls, self.kills = folder, at, 0, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.kills < len(self.at) and self.calls >= self.at[self.kills]:
            alive = workers(self.folder)
            if alive:
                os.kill(alive[self.kills % len(alive)], signal.SIGKILL)
                self.kills += 1


class RayError(Exception):
    pass


class FakeRay:
    """Ray with actors in this process. `ask` and `starts` may raise `RayError`: a worker is lost.

    Attributes:
        ask: Called with an actor, a question and the folders of lost workers.
        starts: Called whenever an actor starts.
        actors: All that have started.
    """

    class exceptions:  # noqa: N801
        RayError = RayError

    def __init__(
        self, ask: Callable[[Any, Any, Sequence[Path]], Any], starts: Callable[[], None]
    ) -> None:
        self.ask, self.starts = ask, starts
        self.actors: list[Any] = []

    def remote(self, cls: Any) -> Any:
        ray = self

        class Method:
            def __init__(self, call: Any) -> None:
                self.remote = call

        class Actor:
            @staticmethod
            def options(**_: Any) -> Any:
                return Actor

            @staticmethod
            def remote() -> Any:
                return Actor()

            def __init__(self) -> None:
                self.start, self.ask = Method(self._start), Method(self._ask)

            async def _start(self, build: Any, folder: Path) -> None:
                ray.actors.append(self)
                ray.starts()
                self.work = build(folder)

            async def _ask(self, question: Any, lost: Sequence[Path]) -> Any:
                return await ray.ask(self, question, lost)

        return Actor

    def kill(self, actor: Any) -> None:
        pass
