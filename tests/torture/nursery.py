"""Work that is killed at random moments and begun again, by forks of a process that is ready."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.paths import ROOT
from tests.torture.table import Row

#: A worker that takes longer than this is said to hang.
LONGEST_SECONDS = 180


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
    code = f"from tests.torture.nursery import serve; {call}"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield Nursery(process, folder)
        assert process.stdin is not None
        process.stdin.close()


def kill_often(
    row: Row,
    work: Callable[[Path], None],
    folder: Path,
    kills: int,
    longest: float,
    progress: Callable[[str], None],
    at_once: int = 1,
) -> None:
    """Start workers, and kill them after up to `longest` seconds, `kills` times in all.

    At last one may finish: it finds the file `finish`.
    """
    draw = random.Random(time.time_ns())
    with nursery(work, folder) as place:
        killed = 0
        while killed < kills:
            workers = [place.start() for _ in range(at_once)]
            time.sleep(draw.uniform(0.02, longest))
            ended = [place.kill(worker) for worker in workers]
            killed += ended.count(-signal.SIGKILL)
            wrong = [status for status in ended if status not in (0, -signal.SIGKILL)]
            if wrong or 0 in ended:
                row.foreign += len(wrong)
                row.note(f"a worker ended with {ended}: {_last_words(folder)}")
                break
            if killed % 50 < at_once:
                progress(f"{killed} of {kills} kills")
        row.attempts += killed
        (folder / "finish").touch()
        if place.wait(place.start()) != 0:
            row.foreign += 1
            row.note(f"the last worker failed: {_last_words(folder)}")


def _last_words(folder: Path) -> str:
    log = folder / "worker.log"
    return log.read_text(errors="replace")[-300:] if log.exists() else ""


def note(path: Path, *words: object) -> None:
    """Append a line that a kill cannot take back."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def notes(path: Path) -> list[list[str]]:
    """Read the words of all lines."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
