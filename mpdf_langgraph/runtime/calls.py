"""Calls to models: described once, carried out synchronously or asynchronously.

What a node does is written once, as a generator. It yields lists of `Call`s and receives the lists
of their `CallResult`s. `run` and `arun` drive it. Retries, deadlines and the catching of errors
are here and nowhere else.
"""

import asyncio
import contextvars
import json
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeGuard, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ContextThreadPoolExecutor, merge_configs
from langgraph.errors import GraphBubbleUp, ParentCommand

from mpdf_langgraph.errors import ConfigurationError, ModelOutputError, describe_error
from mpdf_langgraph.runtime.budget import (
    MESSAGE_TOKENS,
    output_limit,
    prompt_bound,
    text_bound,
)
from mpdf_langgraph.runtime.caller import calling
from mpdf_langgraph.runtime.retries import is_worth_retrying, pause_before_retry
from mpdf_langgraph.secrets import hide_environment, hide_secrets_of
from mpdf_langgraph.state import Usage, add_usage, largest_usage, no_usage

#: No request costs more tokens than this, on either side. It is the longest context of any model.
MOST_TOKENS = 10_000_000
#: A chat template may bring a system prompt of its own, of at most so many tokens.
TEMPLATE_PROMPT_TOKENS = 4096

#: What is added to errors such as "list index out of range", which say nothing of their origin.
UNREADABLE = ". The endpoint's reply could not be read: run mpdf_langgraph.check_endpoint(url)"


@dataclass(frozen=True)
class Call:
    """One thing to run.

    Attributes:
        runnable: What to invoke.
        payload: Its input.
        parse: Turns the raw result into a value. If it raises, the call has failed.
        config: Run name, tags and metadata for tracing.
        retries: Further tries after a transient failure.
        bound: The most tokens that one try may take, or a function that works it out. It is
            charged if no usage is reported.
        is_model: The runnable is an LLM. A try then counts as a call, even if no chat model
            reports to the callbacks (a remote graph). False: only reported calls count.
        deadline: Epoch seconds after which the call is useless. Asynchronous calls are then
            cancelled, and synchronous ones are not started any more.
        calls: LLM calls that all tries together may make. A chain that makes several per try is
            not tried again if it would exceed them. None: any number.
    """

    runnable: Runnable[Any, Any]
    payload: Any
    parse: Callable[[Any], Any]
    config: RunnableConfig = field(default_factory=RunnableConfig)
    retries: int = 0
    bound: int | Callable[[], int] = 0
    is_model: bool = True
    deadline: float | None = None
    calls: int | None = None


@dataclass(frozen=True)
class CallResult:
    """The result of a call: a `value`, or the `cause` of its failure.

    Attributes:
        attempts: Number of tries. 0: the deadline had already passed.
        seconds: Wall-clock time, pauses between tries included.
        usage: Everything spent on it, failed tries and nested calls included.
        unreadable: The cause is what a client raises where it cannot read an endpoint's reply.
    """

    value: Any
    cause: Exception | None
    attempts: int
    seconds: float
    usage: Usage
    unreadable: bool = False

    @property
    def error(self) -> str | None:
        """The cause in one line without secrets. None if the call succeeded."""
        if self.cause is None:
            return None
        return describe_error(self.cause) + (UNREADABLE if self.unreadable else "")


T = TypeVar("T")
Steps = Generator[list[Call], list[CallResult], T]


def _handover_error(command: ParentCommand) -> ConfigurationError:
    """Return the error of an agent that hands over to another one instead of answering."""
    goto = getattr(command.args[0] if command.args else None, "goto", None)
    return ConfigurationError(
        f"it handed over to {goto!r} (Command.PARENT) instead of answering. Leave out its "
        "handoff tools"
    )


@cache
def _own_threads(process: int) -> ThreadPoolExecutor:
    """Return a process's threads for `threaded_runnable`. An idle one is used again.

    A fork gets threads of its own, as those of its parent do not go with it.
    """
    return ThreadPoolExecutor(max_workers=10_000, thread_name_prefix="mpdf")


def threaded_runnable(function: Callable[[Any], Any]) -> Runnable[Any, Any]:
    """Return a Runnable that, if it is awaited, runs a plain function in a thread of its own.

    asyncio has few threads, and models without an asynchronous side may hold them all.
    """

    async def run_in_own_thread(value: Any) -> Any:
        context = contextvars.copy_context()
        pool = _own_threads(os.getpid())
        return await asyncio.get_running_loop().run_in_executor(pool, context.run, function, value)

    return RunnableLambda(function, run_in_own_thread)


def _was_refused(error: BaseException) -> bool:
    """Tell whether the endpoint turned the request down before it generated anything."""
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500


@dataclass(frozen=True)
class _Largest:
    """The most tokens that one request could have cost, as far as the request tells."""

    prompt: int = MOST_TOKENS
    completion: int = MOST_TOKENS

    @classmethod
    def of(cls, messages: Sequence[BaseMessage], settings: Mapping[str, Any]) -> "_Largest":
        """Return the limits of a request with these messages and these model settings."""
        prompt = completion = MOST_TOKENS
        if all(isinstance(message.content, str) for message in messages):  # no images
            extra = [settings.get(key) for key in ("tools", "functions", "response_format")]
            schemas = sum(text_bound(json.dumps(e, default=str)) for e in extra if e)
            prompt = 2 * (prompt_bound(messages) + schemas) + TEMPLATE_PROMPT_TOKENS
        if is_count(most := output_limit(settings, settings.get("extra_body") or {}), MOST_TOKENS):
            completion = most + MESSAGE_TOKENS
        return cls(prompt, completion)


def is_count(value: Any, most: int) -> TypeGuard[int]:
    """Tell whether a value from elsewhere is an integer from 0 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def message_usage(message: AIMessage, largest: _Largest = _Largest()) -> Usage:
    """Return the usage that a chat model's message reports.

    It is the endpoint's word. A number that the request cannot have cost counts as not reported.
    """
    told: Any = message.usage_metadata
    told = told if isinstance(told, Mapping) else {}
    given, generated = told.get("input_tokens"), told.get("output_tokens")
    sound = is_count(given, largest.prompt), is_count(generated, largest.completion)
    return Usage(
        calls=1,
        prompt_tokens=given if sound[0] else 0,
        completion_tokens=generated if sound[1] else 0,
        unreported=int(not all(sound)),
        estimated=0,
    )


class _Meter(BaseCallbackHandler):
    """Counts every chat-model call below a config, however deep in chains and graphs."""

    run_inline = True

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a graph may run its models in threads
        self.started = 0
        self.refused = 0
        self.unreadable = False
        self.usage = no_usage()
        self._largest: dict[Any, _Largest] = {}

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        settings = kwargs.get("invocation_params") or {}
        largest = _Largest.of([m for batch in messages for m in batch], settings)
        with self._lock:
            self.started += 1
            self._largest[kwargs.get("run_id")] = largest

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        with self._lock:
            self.started += 1

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        with self._lock:
            self.refused += _was_refused(error)
            self.unreadable |= isinstance(error, json.JSONDecodeError)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        generations = [one for those in response.generations for one in those]
        message = getattr(generations[0], "message", None) if generations else None
        message = message if isinstance(message, AIMessage) else AIMessage("")
        with self._lock:
            self.unreadable |= not generations  # a reply without choices
            largest = self._largest.pop(kwargs.get("run_id"), _Largest())
            usage = message_usage(message, largest)
            self.usage = add_usage(self.usage, usage)

    def total(self, value: Any, call: Call, attempts: int) -> Usage:
        """Return what a call took, from what was seen of it and from its result `value`."""
        seen = Usage({**self.usage, "calls": self.started})
        silent = self.started - self.usage["calls"] - self.refused + self.usage["unreported"]
        # Where calls were seen, a message without a usage may be none of a model's.
        told = _reported_usage(value, silent_too=not self.started)
        # A graph that goes on after an interrupt, or runs elsewhere, tells more than was seen.
        if call.is_model and told["calls"] > seen["calls"]:
            # It tells nothing of the tries before. Where nothing was seen, each counts as a call.
            before = 0 if self.started else attempts - 1
            tries = Usage({**no_usage(), "calls": before, "unreported": before})
            told = add_usage(told, tries)
            silent = max(silent, told["unreported"])
            seen = largest_usage(seen, told)
        elif call.is_model and not self.started:
            seen = Usage({**no_usage(), "calls": attempts, "unreported": attempts})
            silent = attempts
        if not silent:
            return seen
        bound = call.bound() if callable(call.bound) else call.bound
        return Usage({**seen, "estimated": silent * bound})


def _reported_usage(value: Any, *, silent_too: bool) -> Usage:
    """Return the usage of the messages that a model or graph has added to the conversation.

    `silent_too`: A message that reports no usage counts as a call, too.
    """
    messages = value.get("messages") if isinstance(value, dict) else [value]
    usages: list[Usage] = []
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, AIMessage) and (silent_too or message.usage_metadata):
            usages.append(message_usage(message))
    return add_usage(no_usage(), *usages)


class _Attempts:
    """The bookkeeping of one call, shared by the synchronous and asynchronous drivers."""

    def __init__(self, call: Call, config: RunnableConfig) -> None:
        self.call = call
        self.meter = _Meter()
        self.config = merge_configs(config, {**call.config, "callbacks": [self.meter]})
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
        """Record a failure. Return the pause before the next try, or None for no more."""
        self.cause = error
        hide_environment()
        hide_secrets_of(self.call.runnable)
        if self.made > self.call.retries or not is_worth_retrying(error, self.call.runnable):
            return None
        again = (self.meter.started or self.made) * (self.made + 1) // self.made
        if self.call.calls is not None and again > self.call.calls:
            return None
        pause = pause_before_retry(error, self.made)
        remaining = self.seconds_left()
        return pause if remaining is None or pause < remaining else None

    def result(self, value: Any = None, *, ok: bool = False) -> CallResult:
        seconds = time.monotonic() - self.started
        usage = self.meter.total(self.raw, self.call, self.made)
        cause = None if ok else self.cause
        bare = isinstance(cause, json.JSONDecodeError | IndexError)
        return CallResult(value, cause, self.made, seconds, usage, self.meter.unreadable and bare)


def _perform(call: Call, config: RunnableConfig) -> CallResult:
    attempts = _Attempts(call, config)
    while attempts.may_start():
        attempts.made += 1
        try:
            with calling(call.config.get("metadata")):
                attempts.raw = call.runnable.invoke(call.payload, attempts.config)
            value = call.parse(attempts.raw)
            return attempts.result(value, ok=True)
        except ParentCommand as command:
            pause = attempts.note_failure(_handover_error(command))
        except GraphBubbleUp:  # an interrupt of a surrounding graph is not a failure
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
                with calling(call.config.get("metadata")):
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
    """Drive `steps` synchronously. The calls of one list run side by side in threads."""
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
    """Drive `steps` asynchronously. The calls of one list run concurrently."""
    try:
        calls = next(steps)
        while True:
            if len(calls) == 1:
                calls = steps.send([await _aperform(calls[0], config)])
                continue
            tasks = [asyncio.create_task(_aperform(call, config)) for call in calls]
            try:
                outcomes = await asyncio.gather(*tasks)
            finally:  # after an interrupt or a cancellation, none may go on
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
