"""Questions put to the workers of a Ray cluster. Workers and whole nodes may be lost.

A worker is an actor that writes what it draws to a folder of its own, in which it holds a lock as
long as it lives. The driver sends each question to the worker that has the fewest. If a worker is
lost, another one takes its place. The driver waits for the lock, reads what the lost worker has
left, and asks the questions again that have no result there.
"""

import asyncio
import fcntl
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpdf_langgraph import ConfigurationError
from mpdf_langgraph.errors import describe_error
from training.collect.asking import RayOptions, WorkerLostError

#: A question fails if so many workers are lost while they have it. It may be what kills them.
LOSSES = 5
#: A worker is given up after so many starts in a row that fail. The pauses in between double.
STARTS = 5
#: A cluster answers within so many seconds.
_PATIENCE = 10.0
_LOCK = "lock"

#: What a worker does: it gets a question, and the folders of the workers that were lost so far.
Work = Callable[[Any, Sequence[Path]], Awaitable[Any]]
#: Returns what finds a question's result, given the folder of a lost worker and the results that
#: this worker has reported. It is None where the worker has left no further result.
Recover = Callable[[Path, Sequence[Any]], Callable[[Any], Any]]


@contextmanager
def connect(options: RayOptions, folder: Path) -> Iterator[tuple[Any, int]]:
    """Connect to a Ray cluster, or start one on this machine.

    Gives the module `ray` and the number of workers, once no worker of an earlier run can write to
    the folder any more.

    Raises:
        ConfigurationError: Ray is not installed, or no cluster answers.
    """
    address = options.ray
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(
            "--ray needs Ray. Install it: python -m pip install --group scale"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here
    given: dict[str, Any] = {"num_cpus": options.workers} if address == "local" else {}
    try:
        _see_whether_anybody_listens(str(address))
        ray.init(
            address,
            log_to_driver=False,
            include_dashboard=False,
            logging_level=logging.WARNING,
            **given,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigurationError(
            f"no Ray cluster at {address!r} ({describe_error(error)}). Start one with `ray start "
            "--head`, or give --ray local"
        ) from error
    try:
        wait_for_earlier_workers(folder)
        yield ray, options.workers or _count_processors(ray)
    finally:
        ray.shutdown()


def _see_whether_anybody_listens(address: str) -> None:
    """Raise OSError if an address of the form host:port is dead. Ray would try it for ever."""
    if found := re.fullmatch(r"(?:ray://)?([\w.-]+):([0-9]{1,5})", address):
        socket.create_connection((found[1], int(found[2])), _PATIENCE).close()


def _count_processors(ray: Any) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


class _Actor:
    """What runs in the process of a worker."""

    async def start(self, build: Callable[[Path], Work], folder: Path) -> None:
        if not os.access(folder, os.W_OK):
            raise ConfigurationError(
                f"the node {socket.gethostname()} cannot write to {folder}: --out must be a "
                "folder that all nodes share"
            )
        # This lock ends with the process. No child inherits it, and NFS has it too.
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode())
        self.work = build(folder)

    async def ask(self, question: Any, lost: Sequence[Path]) -> Any:
        return await self.work(question, lost)


def is_alive(folder: Path) -> bool:
    """Tell whether the worker with that folder still runs, on whatever node."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(descriptor)
    return False


def wait_for_earlier_workers(folder: Path) -> None:
    """Wait until no worker of an earlier run can write. Ray ends them once their driver is gone."""
    told = False
    for lock in sorted(folder.glob(f"*/{_LOCK}")):
        while is_alive(lock.parent):
            if not told:
                who = lock.read_text().strip()
                print(f"waiting for a worker of another run to end: {who}", flush=True)
            told = True
            time.sleep(0.2)


@dataclass(eq=False)
class _Worker:
    """The driver's view of a worker.

    Attributes:
        busy: Number of questions that it has now.
        reported: Its results.
        lost: It answers no more.
        left: Once lost: what finds a question's result among those that it has not reported.
    """

    actor: Any
    folder: Path
    busy: int = 0
    reported: list[Any] = field(default_factory=list)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    left: "asyncio.Task[Callable[[Any], Any]] | None" = None


@dataclass(eq=False)
class _Workers:
    """All workers. Their number stays the same as long as the cluster has room for them."""

    ray: Any
    build: Callable[[Path], Work]
    recover: Recover
    folder: Path
    count: int
    concurrency: int
    lost: list[Path] = field(default_factory=list)
    ready: list[_Worker] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    given_up: list[BaseException] = field(default_factory=list)

    async def keep_one(self) -> None:
        """Keep a worker running: when it is lost, start another one."""
        actor = self.ray.remote(_Actor).options(
            num_cpus=1, max_restarts=0, max_concurrency=self.concurrency + 1
        )
        failed = 0
        while failed < STARTS:
            folder = self.folder / f"worker-{uuid.uuid4().hex[:12]}"
            folder.mkdir()
            worker = _Worker(actor.remote(), folder)
            try:
                await worker.actor.start.remote(self.build, folder)
            except self.ray.exceptions.RayError as error:
                failed += 1
                why = getattr(error, "cause", None) or error
                await asyncio.sleep(2**failed if failed < STARTS else 0)
            else:
                failed = 0
                self.ready.append(worker)
                await self.tell()
                await worker.lost.wait()
            self.ray.kill(worker.actor)  # it may be cut off, and still run
        self.given_up.append(why)
        await self.tell()

    async def tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def take(self) -> _Worker:
        """Give a question to the worker that has the fewest, once one has room."""
        async with self.changed:
            while not (free := [w for w in self.ready if w.busy < self.concurrency]):
                if len(self.given_up) == self.count:
                    raise ConfigurationError(
                        f"no worker starts: {describe_error(self.given_up[-1])}"
                    )
                await self.changed.wait()
        worker = min(free, key=lambda w: w.busy)
        worker.busy += 1
        return worker

    async def ask(self, question: Any) -> Any:
        """Ask a worker. If it is lost, return the result that it left, or ask another one."""
        for _ in range(LOSSES):
            worker = await self.take()
            try:
                result = await worker.actor.ask.remote(question, tuple(self.lost))
                worker.reported.append(result)
                return result
            except self.ray.exceptions.RayError:
                if not worker.lost.is_set():
                    worker.lost.set()
                    self.ready.remove(worker)
            finally:
                worker.busy -= 1
                await self.tell()
            worker.left = worker.left or asyncio.create_task(self.read_left(worker))
            if (result := (await worker.left)(question)) is not None:
                return result
        raise WorkerLostError(f"lost with its worker, {LOSSES} times")

    async def read_left(self, worker: _Worker) -> Callable[[Any], Any]:
        """Read what a lost worker has left, once it cannot write any more."""
        while worker.busy or is_alive(worker.folder):  # noqa: ASYNC110  (a lock cannot be awaited)
            await asyncio.sleep(0.1)
        self.lost.append(worker.folder)
        return await asyncio.to_thread(self.recover, worker.folder, worker.reported)


@asynccontextmanager
async def run_workers(
    ray: Any,
    build: Callable[[Path], Work],
    recover: Recover,
    folder: Path,
    count: int,
    concurrency: int,
) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    """Start workers. Gives a function that asks one of them a question.

    That function raises `WorkerLostError` for a question that loses `LOSSES` workers.

    Args:
        ray: From `connect`.
        build: Returns what a worker does, given the folder for what it draws.
        recover: Reads what a lost worker has left there.
        folder: Every worker gets a sub-folder of it. All nodes must see it under this path.
        count: Number of workers. Those that the cluster has no room for wait.
        concurrency: Questions at a time for each of them.
    """
    workers = _Workers(ray, build, recover, folder, count, concurrency)
    keepers = [asyncio.create_task(workers.keep_one()) for _ in range(count)]
    try:
        yield workers.ask
    finally:
        for keeper in keepers:
            keeper.cancel()
