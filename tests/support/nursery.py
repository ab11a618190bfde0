"""Work that is killed at random moments and begun again, by forks of a process that is ready."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.paths import ROOT

#: A worker that takes longer hangs. The kernel then ends it by SIGALRM.
LONGEST_SECONDS = 600


def serve(module: str, function: str, folder: str) -> None:
    """Fork a worker for every `start`, and for every number say how that worker ended."""
    work: Callable[[Path], None] = getattr(__import__(module, fromlist=[function]), function)
    for line in sys.stdin:
        if line.strip() != "start":
            status = os.waitstatus_to_exitcode(os.waitpid(int(line), 0)[1])
            print(status, flush=True)  # noqa: T201
            continue
        child = os.fork()
        if child == 0:
            random.seed()
            signal.alarm(LONGEST_SECONDS)
            log = os.open(f"{folder}/worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                work(Path(folder))
            except BaseException:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)  # noqa: T201


class Nursery:
    """Starts workers in a folder, and kills them."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process, self.folder = process, folder

    def _say(self, word: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self) -> int:
        return self._say("start")

    def kill(self, worker: int) -> int:
        """Kill a worker. Return how it ended: -9, or 0 if it was done before."""
        os.kill(worker, signal.SIGKILL)  # it is not reaped yet, so the number is its own
        return self._say(str(worker))

    def wait(self, worker: int) -> int:
        """Wait for a worker to end by itself."""
        return self._say(str(worker))


@contextmanager
def nursery(work: Callable[[Path], None], folder: Path) -> Iterator[Nursery]:
    """A process that has imported everything already, so that its children start at once."""
    folder.mkdir(parents=True, exist_ok=True)
    call = f"serve({work.__module__!r}, {work.__name__!r}, {str(folder)!r})"
    code = f"from tests.support.nursery import serve; {call}"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield Nursery(process, folder)


def note(path: Path, *words: object) -> None:
    """Append a line that a kill cannot take back."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def notes(path: Path) -> list[list[str]]:
    """Read the words of all lines."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
