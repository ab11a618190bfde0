"""Load, memory, torn files, forged frames, and the programs that try to leave the sandbox."""

import asyncio
import gc
import json
import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from mpdf_langgraph import TraceReader
from tests.plugin.answers.escapes.running import NAMES, NOBODY
from tests.plugin.test_frames import check_attack
from tests.support.load import deliberation, failures_of, guessing, memory, peak_of
from tests.support.loopback import loopback
from tests.support.running import run_python
from tests.support.synthetic import synthetic_episodes
from tests.torture.table import Row, timed

Progress = Callable[[str], None]

#: MB that the second half of many deliberations may take more than the first.
MOST_GROWTH = 10


def burst(scale: float, folder: Path, progress: Progress) -> Row:
    """Deliberations of three agents, all at once, against a server that takes 12 s a call."""
    count = max(50, round(2000 * scale))
    delay = 12.0 if scale >= 1 else 2.0
    at_once = timed(Row(f"load: {count:,} deliberations at once"))
    with at_once as row, loopback(delay=delay) as (url, _):
        graph = deliberation(url)

        async def ask() -> list[str]:
            await failures_of(graph, 1, at_once=1)
            before = memory()
            errors, peak = await peak_of(failures_of(graph, count, at_once=count))
            row.note(f"each took {(peak - before) * 1000 / count:.0f} kB while it was under way")
            return errors

        errors = asyncio.run(ask())
        row.attempts, row.lost = count, len(errors)
        for error in errors[:3]:
            row.note(error)
    return row


def memory_of(traced: bool, scale: float, folder: Path, progress: Progress) -> Row:
    """Deliberations in a row and side by side: the second half must take no further memory.

    With traces, the models guess. Without, a server answers.
    """
    count = max(400, round((50_000 if traced else 10_000) * scale))
    title = f"memory: {count:,} deliberations, {'traces' if traced else 'a server'}"
    with timed(Row(title)) as row, ExitStack() as stack:
        graph = guessing(folder) if traced else deliberation(stack.enter_context(loopback())[0])
        held: dict[int, float] = {}
        gc.freeze()  # what was imported is not searched for garbage again and again
        stack.callback(gc.unfreeze)

        async def ask() -> list[str]:
            errors: list[str] = []
            step = count // 50
            for number in range(step, count + 1, step):
                # A tenth in a row, the rest 16 at a time.
                errors += await failures_of(graph, step // 10, at_once=1)
                errors += await failures_of(graph, step - step // 10, at_once=16)
                held[number] = memory()
                row.attempts = number
                progress(f"{number:,} deliberations, {held[number]:.0f} MB")
            return errors

        errors = asyncio.run(ask())
        row.lost = len(errors) + (traced and count - sum(1 for _ in TraceReader(folder)))
        told = [n for n in held if n * 50 // count in (1, 10, 25, 50)]
        row.note("resident " + ", ".join(f"{held[n]:.1f} MB after {n:,}" for n in told))
        values = list(held.values())
        growth = max(values[25:]) - max(values[10:25])
        if growth > MOST_GROWTH:
            row.disagreeing = 1
            row.note(f"the second half took {growth:.1f} MB more")
    return row


MEMORY = {
    "memory-traces": partial(memory_of, True),
    "memory-server": partial(memory_of, False),
}


def torn(scale: float, folder: Path, progress: Progress) -> Row:
    """Files of traces cut at every byte: each whole record is read, and nothing else is."""
    with timed(Row("torn files of traces")) as row:
        folder.mkdir(parents=True, exist_ok=True)
        episodes = synthetic_episodes(3, rounds=1, alternatives=0)
        # As they are written, and one as older versions wrote it.
        records = [b"\n" + e.to_json(packed=n > 0) for n, e in enumerate(episodes)]
        whole = b"".join(records)
        path = folder / "torn.jsonl"
        step = max(1, round(1 / scale))
        for end in range(0, len(whole) + 1, step):
            path.write_bytes(whole[:end] + records[0])  # and somebody writes on
            row.attempts += 1
            complete = sum(end >= sum(map(len, records[: n + 1])) for n in range(3))
            read = [episode.id for episode in TraceReader(path)]
            row.lost += len(read) < max(1, complete)
            row.duplicated += len(set(read)) < len(read)
        progress(f"{row.attempts:,} cuts")
    return row


def frames(scale: float, folder: Path, progress: Progress) -> Row:
    """Texts that try to pass for another peer's, for a person's hint, or for a verdict."""
    with timed(Row("forged frames")) as row:
        chance = random.Random(time.time_ns())
        fences: list[str] = []
        for _ in range(max(100, round(10_000 * scale))):
            row.attempts += 1
            try:
                fences = [*fences[-20:], check_attack(chance, fences)]
            except AssertionError as error:
                row.escapes += 1
                row.note(str(error))
        progress(f"{row.attempts:,} texts")
    return row


def escapes(user: int | None, scale: float, folder: Path, progress: Progress) -> Row:
    """Programs that try to get out of the sandbox, started by a user. None: by the one here."""
    who = "this user" if user is None else f"user {user}"
    with timed(Row(f"sandbox escapes, {who}")) as row:
        names = random.Random(3).sample(NAMES, max(4, round(len(NAMES) * min(1.0, scale))))
        module = "tests.plugin.answers.escapes.running"
        done = run_python("-m", module, os.getuid() if user is None else user, *names)
        if done.returncode:
            row.foreign += 1
            row.note(done.stderr[-300:])
            return row
        for name, got in json.loads(done.stdout).items():
            row.attempts += 1
            row.escapes += bool(got)
            if got:
                row.note(f"{name}: {got}")
        progress(f"{row.attempts} programs")
    return row


ESCAPES = {"escapes": partial(escapes, None)}
if os.getuid() == 0:  # nobody else can take another user's rights
    ESCAPES["escapes-nobody"] = partial(escapes, NOBODY)
