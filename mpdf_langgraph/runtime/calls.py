"""Calls to models: described once, carried out synchronously or asynchronously.

What a node does is written once, as a generator that yields lists of `Call`s and receives
the list of their `CallResult`s; `run` and `arun` drive it. Retries, deadlines and the catching
of errors live here and nowhere else.
"""

import asyncio
import contextvars
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ContextThreadPoolExecutor, merge_configs
from langgraph.errors import GraphBubbleUp, GraphRecursionError, ParentCommand

from mpdf_langgraph.errors import (
    ConfigurationError,
    EndpointError,
    ModelOutputError,
    OutOfTokensError,
    describe_error,
)
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
        bound: The most tokens that one try may take, charged where none are reported.
        is_model: The runnable is an LLM, so that a try counts as a call even where no chat
            model reports to the callbacks (a remote graph). False: only reported calls count.
        deadline: Epoch seconds after which the call is pointless. Asynchronous calls are
            cancelled then; synchronous ones are no longer started.
        calls: LLM calls that all tries may make; a chain that makes several a try is not tried
            again where they would be exceeded. None: any number.
    """

    runnable: Runnable[Any, Any]
    payload: Any
    parse: Callable[[Any], Any]
    config: RunnableConfig = field(default_factory=RunnableConfig)
    retries: int = 0
    bound: int = 0
    is_model: bool = True
    deadline: float | None = None
    calls: int | None = None


@dataclass(frozen=True)
class CallResult:
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
Steps = Generator[list[Call], list[CallResult], T]


def is_transient(error: Exception) -> bool:
    """Tell whether trying again could help: not where the request or the endpoint is wrong."""
    status = getattr(error, "status_code", None)
    if status is None:  # httpx keeps it in the response
        status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _PASSING_STATUS
    if isinstance(error, TypeError) and "keyword argument" in str(error):
        return False
    hopeless = ConfigurationError | EndpointError | OutOfTokensError
    return not isinstance(error, hopeless | NotImplementedError | GraphRecursionError)


def _handover_error(command: ParentCommand) -> ConfigurationError:
    """Return the error of an agent that hands over: the deliberation has nobody to go on with."""
    goto = getattr(command.args[0] if command.args else None, "goto", None)
    return ConfigurationError(
        f"it handed over to {goto!r} (Command.PARENT) instead of answering; leave out its "
        "handoff tools"
    )


def threaded_runnable(function: Callable[[Any], Any]) -> Runnable[Any, Any]:
    """Return a Runnable that, if it is awaited, runs a plain function in a thread of its own.

    asyncio's threads are few, and models without an asynchronous side may hold them all.
    """

    async def run_in_own_thread(value: Any) -> Any:
        pool = ThreadPoolExecutor(max_workers=1)
        context = contextvars.copy_context()
        done = asyncio.get_running_loop().run_in_executor(pool, context.run, function, value)
        pool.shutdown(wait=False)
        return await done

    return RunnableLambda(function, run_in_own_thread)


def _was_refused(error: BaseException) -> bool:
    """Tell whether the endpoint turned the request down before it generated anything."""
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500


def message_usage(message: AIMessage) -> Usage:
    """Return the usage that a chat model's message reports."""
    reported: Mapping[str, Any] = message.usage_metadata or {}
    given, generated = reported.get("input_tokens"), reported.get("output_tokens")
    return Usage(
        calls=1,
        prompt_tokens=given or 0,
        completion_tokens=generated or 0,
        unreported=int(given is None or generated is None),
        estimated=0,
    )


class _Meter(BaseCallbackHandler):
    """Counts every chat-model call below a config, however deep in chains and graphs."""

    run_inline = True

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a graph may run its models in threads
        self.started = 0
        self.refused = 0
        self.usage = no_usage()

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        with self._lock:
            self.started += 1

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        with self._lock:
            self.started += 1

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        with self._lock:
            self.refused += _was_refused(error)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        message = getattr(response.generations[0][0], "message", None)
        usage = message_usage(message if isinstance(message, AIMessage) else AIMessage(""))
        with self._lock:
            self.usage = add_usage(self.usage, usage)

    def total(self, value: Any, call: Call, attempts: int) -> Usage:
        """Return what a call took, from what was seen of it and from its result `value`."""
        seen = Usage({**self.usage, "calls": self.started})
        silent = self.started - self.usage["calls"] - self.refused + self.usage["unreported"]
        told = _reported_usage(value)
        # A graph that goes on after an interrupt, or runs elsewhere, tells more than was seen.
        if call.is_model and told["calls"] > seen["calls"]:
            seen, silent = told, told["unreported"]
        elif call.is_model and not self.started:
            seen = Usage({**no_usage(), "calls": attempts, "unreported": attempts})
            silent = attempts
        return Usage({**seen, "estimated": silent * call.bound})


def _reported_usage(value: Any) -> Usage:
    """Return the usage of the messages that a model or graph has added to the conversation."""
    messages = value.get("messages") if isinstance(value, dict) else [value]
    usages: list[Usage] = []
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, AIMessage):
            usages.append(message_usage(message))
    return add_usage(no_usage(), *usages)


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

    def seconds_left(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self.call.deadline is None else self.call.deadline - time.time()

    def may_start(self) -> bool:
        remaining = self.seconds_left()
        return remaining is None or remaining > 0

    def note_failure(self, error: Exception) -> float | None:
        """Record a failure; return the pause before the next try, None for no more."""
        self.cause = error
        if self.made > self.call.retries or not is_transient(error):
            return None
        again = self.meter.started * (self.made + 1) // self.made
        if self.call.calls is not None and again > self.call.calls:
            return None
        pause: float = min(LONGEST_PAUSE, 0.25 * 2**self.made) * random.uniform(0.5, 1.0)
        remaining = self.seconds_left()
        return pause if remaining is None or pause < remaining else None

    def result(self, value: Any = None, *, ok: bool = False) -> CallResult:
        seconds = time.monotonic() - self.started
        usage = self.meter.total(self.raw, self.call, self.made)
        return CallResult(value, None if ok else self.cause, self.made, seconds, usage)


def _perform(call: Call, config: RunnableConfig) -> CallResult:
    attempts = _Attempts(call, config)
    while attempts.may_start():
        attempts.made += 1
        try:
            attempts.raw = call.runnable.invoke(call.payload, attempts.config)
            value = call.parse(attempts.raw)
            return attempts.result(value, ok=True)
        except ParentCommand as command:
            pause = attempts.note_failure(_handover_error(command))
        except GraphBubbleUp:  # interrupts and drains of a surrounding graph are no failures
            raise
        except Exception as error:
            pause = attempts.note_failure(error)
        if pause is None:
            break
        time.sleep(pause)
    return attempts.result()


async def _aperform(call: Call, config: RunnableConfig) -> CallResult:
    attempts = _Attempts(call, config)
    while attempts.may_start():
        attempts.made += 1
        try:
            async with asyncio.timeout(attempts.seconds_left()) as limit:
                attempts.raw = await call.runnable.ainvoke(call.payload, attempts.config)
                value = call.parse(attempts.raw)
            return attempts.result(value, ok=True)
        except ParentCommand as command:
            pause = attempts.note_failure(_handover_error(command))
        except GraphBubbleUp:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            pause = attempts.note_failure(ModelOutputError("it was cancelled from within"))
        except Exception as error:
            if limit.expired():  # also where the model wrapped the cancellation in its own error
                attempts.cause = TimeoutError("cancelled at the time limit")
                break
            pause = attempts.note_failure(error)
        if pause is None:
            break
        await asyncio.sleep(pause)
    return attempts.result()


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
            tasks = [asyncio.create_task(_aperform(call, config)) for call in calls]
            try:
                outcomes = await asyncio.gather(*tasks)
            finally:  # an interrupt of one, or a cancellation of all, must leave none running
                for task in tasks:
                    task.cancel()
            calls = steps.send(list(outcomes))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def merge_steps(parts: list[Steps[T]]) -> Steps[list[T]]:
    """Return one generator that drives several side by side, and returns all their results."""
    results: dict[int, T] = {}
    pending: dict[int, list[Call]] = {}

    def advance(index: int, outcomes: list[CallResult] | None) -> None:
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
