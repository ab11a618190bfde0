"""Calls to models: described once, carried out synchronously or asynchronously.

What a node does is written once, as a generator that yields lists of `Call`s and receives
the list of their `Outcome`s; `run` and `arun` drive it. Retries, deadlines and the catching
of errors live here and nowhere else.
"""

import asyncio
import random
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor, merge_configs
from langgraph.errors import GraphBubbleUp

from mpdf_langgraph.errors import ConfigurationError

LONGEST_PAUSE = 8.0
_PASSING_STATUS = {408, 409, 425, 429}
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+"), r"\1 ***"),
    (re.compile(r"(?i)\b((?:api|access|secret)[_-]?(?:key|token)\W{1,4})[\w.~+/=-]+"), r"\1***"),
    (re.compile(r"\b(sk|pk|hf|gsk|ghp|lsv2)[-_][\w*.-]{8,}"), r"\1-***"),
    (re.compile(r"(://)[^/\s:@]+(?::[^/\s@]*)?@"), r"\1***@"),
)


@dataclass(frozen=True)
class Call:
    """One thing to run.

    Attributes:
        runnable: What to invoke.
        payload: With what.
        parse: Turns the raw result into a value; where it raises, the call has failed.
        config: Run name, tags and metadata for tracing.
        retries: How often to try again after a failure that may pass.
        deadline: Epoch seconds after which the call is pointless. Asynchronous calls are
            cancelled then; synchronous ones are no longer started.
    """

    runnable: Runnable[Any, Any]
    payload: Any
    parse: Callable[[Any], Any]
    config: RunnableConfig = field(default_factory=lambda: RunnableConfig())
    retries: int = 0
    deadline: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a call: a `value`, or an `error` in one line without secrets.

    Attributes:
        attempts: Tries made; 0 where the deadline had already passed.
        seconds: Wall-clock time, pauses between tries included.
    """

    value: Any
    error: str | None
    attempts: int
    seconds: float


T = TypeVar("T")
Steps = Generator[list[Call], list[Outcome], T]


def describe_error(error: BaseException) -> str:
    """Return an error as one line of at most 500 characters, keys and passwords masked."""
    text = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
    text = " ".join(text.split())
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text[:500]


def may_pass(error: Exception) -> bool:
    """Tell whether trying again could help: not for a wrong request or a wrong option."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _PASSING_STATUS
    return not isinstance(error, ConfigurationError)


class _Attempts:
    """The bookkeeping of one call, shared by the synchronous and asynchronous drivers."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.started = time.monotonic()
        self.made = 0
        self.error: str | None = "the time limit had passed before the call could start"

    def remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self.call.deadline is None else self.call.deadline - time.time()

    def may_start(self) -> bool:
        remaining = self.remaining()
        return remaining is None or remaining > 0

    def failed(self, error: Exception) -> float | None:
        """Record a failure; return the pause before the next try, None for no more."""
        self.error = describe_error(error)
        if self.made > self.call.retries or not may_pass(error):
            return None
        return min(LONGEST_PAUSE, 0.25 * 2**self.made) * random.uniform(0.5, 1.0)

    def outcome(self, value: Any = None, *, ok: bool = False) -> Outcome:
        seconds = time.monotonic() - self.started
        return Outcome(value, None if ok else self.error, self.made, seconds)


def _perform(call: Call, config: RunnableConfig) -> Outcome:
    attempts = _Attempts(call)
    config = merge_configs(config, call.config)
    while attempts.may_start():
        attempts.made += 1
        try:
            value = call.parse(call.runnable.invoke(call.payload, config))
            return attempts.outcome(value, ok=True)
        except GraphBubbleUp:  # interrupts and drains of a surrounding graph are no failures
            raise
        except Exception as error:
            pause = attempts.failed(error)
        if pause is None:
            break
        time.sleep(pause)
    return attempts.outcome()


async def _aperform(call: Call, config: RunnableConfig) -> Outcome:
    attempts = _Attempts(call)
    config = merge_configs(config, call.config)
    while attempts.may_start():
        attempts.made += 1
        try:
            async with asyncio.timeout(attempts.remaining()) as limit:
                value = call.parse(await call.runnable.ainvoke(call.payload, config))
            return attempts.outcome(value, ok=True)
        except GraphBubbleUp:
            raise
        except Exception as error:
            if limit.expired():
                attempts.error = "cancelled at the time limit"
                break
            pause = attempts.failed(error)
        if pause is None:
            break
        await asyncio.sleep(pause)
    return attempts.outcome()


def run(steps: Steps[T], config: RunnableConfig) -> T:
    """Drive `steps` synchronously; the calls of one list run side by side in threads."""
    try:
        calls = next(steps)
        while True:
            if len(calls) == 1:
                outcomes = [_perform(calls[0], config)]
            else:
                with ContextThreadPoolExecutor(max_workers=max(1, len(calls))) as pool:
                    outcomes = list(pool.map(lambda call: _perform(call, config), calls))
            calls = steps.send(outcomes)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def arun(steps: Steps[T], config: RunnableConfig) -> T:
    """Drive `steps` asynchronously; the calls of one list run concurrently."""
    try:
        calls = next(steps)
        while True:
            outcomes = await asyncio.gather(*(_aperform(call, config) for call in calls))
            calls = steps.send(list(outcomes))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
