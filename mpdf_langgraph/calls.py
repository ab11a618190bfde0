"""Calls to models: described once, carried out synchronously or asynchronously.

What a node does is written once, as a generator that yields lists of `Call`s and receives
the list of their `Outcome`s; `run` and `arun` drive it. Retries, deadlines and the catching
of errors live here and nowhere else.
"""

import asyncio
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor, merge_configs
from langgraph.errors import GraphBubbleUp

from mpdf_langgraph.errors import ConfigurationError, EndpointError, describe_error
from mpdf_langgraph.state import Usage, add_usage, no_usage

LONGEST_PAUSE = 8.0
_PASSING_STATUS = {408, 409, 425, 429}


@dataclass(frozen=True)
class Call:
    """One thing to run.

    Attributes:
        runnable: What to invoke.
        payload: With what.
        parse: Turns the raw result into a value; where it raises, the call has failed.
        config: Run name, tags and metadata for tracing.
        retries: How often to try again after a failure that may pass.
        is_model: The runnable is an LLM, so that a try counts as a call even where no chat
            model reports to the callbacks (a remote graph). False: only reported calls count.
        deadline: Epoch seconds after which the call is pointless. Asynchronous calls are
            cancelled then; synchronous ones are no longer started.
    """

    runnable: Runnable[Any, Any]
    payload: Any
    parse: Callable[[Any], Any]
    config: RunnableConfig = field(default_factory=RunnableConfig)
    retries: int = 0
    is_model: bool = True
    deadline: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a call: a `value`, or the `cause` of its failure.

    Attributes:
        attempts: Tries made; 0 where the deadline had already passed.
        seconds: Wall-clock time, pauses between tries included.
        usage: Everything spent on it, failed tries and calls nested inside included.
    """

    value: Any
    cause: Exception | None
    attempts: int
    seconds: float
    usage: Usage

    @property
    def error(self) -> str | None:
        """The cause in one line without secrets; None where the call succeeded."""
        return None if self.cause is None else describe_error(self.cause)


T = TypeVar("T")
Steps = Generator[list[Call], list[Outcome], T]


def may_pass(error: Exception) -> bool:
    """Tell whether trying again could help: not where the request or the endpoint is wrong."""
    status = getattr(error, "status_code", None)
    if status is None:  # httpx keeps it in the response
        status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _PASSING_STATUS
    return not isinstance(error, ConfigurationError | EndpointError)


def message_usage(message: AIMessage) -> Usage:
    """Return the usage that a chat model's message reports."""
    reported = message.usage_metadata
    if reported is None:
        return Usage(calls=1, prompt_tokens=0, completion_tokens=0, unreported=1)
    return Usage(
        calls=1,
        prompt_tokens=reported["input_tokens"],
        completion_tokens=reported["output_tokens"],
        unreported=0,
    )


class _Meter(BaseCallbackHandler):
    """Counts every chat-model call below a config, however deep in chains and graphs."""

    run_inline = True

    def __init__(self) -> None:
        self.started = 0
        self.usage = no_usage()

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.started += 1

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        self.started += 1

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        message = getattr(response.generations[0][0], "message", None)
        usage = message_usage(message if isinstance(message, AIMessage) else AIMessage(""))
        self.usage = add_usage(self.usage, usage)

    def total(self, value: Any, attempts: int, *, is_model: bool) -> Usage:
        """Return what was spent; `value` tells where no call was seen (a remote graph, say)."""
        if self.started or not is_model:
            return Usage({**self.usage, "calls": self.started})
        messages = value.get("messages", []) if isinstance(value, dict) else [value]
        last = messages[-1] if isinstance(messages, list) and messages else None
        usage = message_usage(last if isinstance(last, AIMessage) else AIMessage(""))
        return Usage({**usage, "calls": attempts, "unreported": usage["unreported"] and attempts})


class _Attempts:
    """The bookkeeping of one call, shared by the synchronous and asynchronous drivers."""

    def __init__(self, call: Call, config: RunnableConfig) -> None:
        self.call = call
        self.meter = _Meter()
        self.config = merge_configs(config, call.config, {"callbacks": [self.meter]})
        self.raw: Any = None
        self.started = time.monotonic()
        self.made = 0
        self.cause: Exception = TimeoutError("the time limit had passed before the call started")

    def remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self.call.deadline is None else self.call.deadline - time.time()

    def may_start(self) -> bool:
        remaining = self.remaining()
        return remaining is None or remaining > 0

    def failed(self, error: Exception) -> float | None:
        """Record a failure; return the pause before the next try, None for no more."""
        self.cause = error
        if self.made > self.call.retries or not may_pass(error):
            return None
        pause: float = min(LONGEST_PAUSE, 0.25 * 2**self.made) * random.uniform(0.5, 1.0)
        remaining = self.remaining()
        return pause if remaining is None or pause < remaining else None

    def outcome(self, value: Any = None, *, ok: bool = False) -> Outcome:
        seconds = time.monotonic() - self.started
        usage = self.meter.total(self.raw, self.made, is_model=self.call.is_model)
        return Outcome(value, None if ok else self.cause, self.made, seconds, usage)


def _perform(call: Call, config: RunnableConfig) -> Outcome:
    attempts = _Attempts(call, config)
    while attempts.may_start():
        attempts.made += 1
        try:
            attempts.raw = call.runnable.invoke(call.payload, attempts.config)
            value = call.parse(attempts.raw)
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
    attempts = _Attempts(call, config)
    while attempts.may_start():
        attempts.made += 1
        try:
            async with asyncio.timeout(attempts.remaining()) as limit:
                attempts.raw = await call.runnable.ainvoke(call.payload, attempts.config)
                value = call.parse(attempts.raw)
            return attempts.outcome(value, ok=True)
        except GraphBubbleUp:
            raise
        except Exception as error:
            if limit.expired():  # also where the model wrapped the cancellation in its own error
                attempts.cause = TimeoutError("cancelled at the time limit")
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


def together(parts: list[Steps[T]]) -> Steps[list[T]]:
    """Return one generator that drives several side by side, and returns all their results."""
    results: dict[int, T] = {}
    pending: dict[int, list[Call]] = {}

    def advance(index: int, outcomes: list[Outcome] | None) -> None:
        try:
            part = parts[index]
            pending[index] = next(part) if outcomes is None else part.send(outcomes)
        except StopIteration as stop:
            results[index] = stop.value

    for index in range(len(parts)):
        advance(index, None)
    while pending:
        batch = list(pending.items())
        pending.clear()
        outcomes = iter((yield [call for _, calls in batch for call in calls]))
        for index, calls in batch:
            advance(index, [next(outcomes) for _ in calls])
    return [results[index] for index in range(len(parts))]
