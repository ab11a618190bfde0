"""Retries, deadlines, metering and the masking of secrets, with calls that go wrong."""

import asyncio
import json
import math
import random
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.errors import GraphInterrupt, GraphRecursionError
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from mpdf_langgraph.errors import ConfigurationError, EndpointError, ModelOutputError
from mpdf_langgraph.runtime import retries
from mpdf_langgraph.runtime.calls import (
    Call,
    CallResult,
    Steps,
    arun,
    describe_error,
    merge_steps,
    run,
)
from tests.support.scripted import Scripted, StatusError, counted, says, totals

Driver = Callable[[Steps[Any]], Coroutine[Any, Any, Any]]


async def in_threads(steps: Steps[Any]) -> Any:
    return await asyncio.to_thread(run, steps, RunnableConfig())


async def in_tasks(steps: Steps[Any]) -> Any:
    return await arun(steps, RunnableConfig())


@pytest.fixture(params=[in_threads, in_tasks])
def drive(request: pytest.FixtureRequest) -> Driver:
    driver: Driver = request.param
    return driver


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.001)


def same(value: Any) -> Any:
    return value


def raising(*errors: Exception | None) -> Any:
    """A runnable that fails with each error in turn, and then returns "fine"."""
    left = list(errors)

    def work(_: Any) -> str:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return "fine"

    return RunnableLambda(work)


def one(call: Call) -> Steps[CallResult]:
    [outcome] = yield [call]
    return outcome


REQUEST = httpx.Request("POST", "http://localhost/v1/chat/completions")


def openai_error(status: int) -> openai.APIStatusError:
    response = httpx.Response(status, request=REQUEST)
    return openai.APIStatusError(f"status {status}", response=response, body=None)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (openai_error(400), False),
        (openai_error(401), False),
        (openai_error(403), False),
        (openai_error(404), False),
        (openai_error(422), False),
        (openai_error(408), True),
        (openai_error(429), True),
        (openai_error(500), True),
        (openai_error(503), True),
        (httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(401)), False),
        (httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(502)), True),
        (openai.APIConnectionError(request=REQUEST), True),
        (openai.APITimeoutError(request=REQUEST), True),
        (ConnectionResetError("reset"), True),
        (ValueError("not JSON"), True),
        (IndexError("choices is empty"), True),
        (ModelOutputError("the response is empty"), True),
        (ConfigurationError("wrong option"), False),
        (EndpointError("no log-probabilities"), False),
        (GraphRecursionError("limit of 9 reached"), False),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:40],
)
async def test_what_is_tried_again(drive: Driver, error: Exception, retried: bool) -> None:
    outcome = await drive(one(Call(raising(error), "x", same, retries=1)))
    assert outcome.attempts == (2 if retried else 1)
    assert outcome.value == ("fine" if retried else None)
    assert outcome.cause is (None if retried else error)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_attempts_are_counted(drive: Driver, retries: int) -> None:
    down = raising(*[StatusError(503)] * 10)
    outcome = await drive(one(Call(down, "x", same, retries=retries)))
    assert outcome.attempts == retries + 1
    assert outcome.usage["calls"] == retries + 1
    assert outcome.error == "StatusError: HTTP status 503"


@pytest.mark.usefixtures("no_pauses")
async def test_a_value_that_cannot_be_parsed_is_a_failure(drive: Driver) -> None:
    def parse(value: str) -> str:
        if value == "bad":
            raise ModelOutputError("bad")
        return value

    model = says(["bad", "good"])
    outcome = await drive(one(Call(model, "x", lambda m: parse(m.text), retries=1)))
    assert (outcome.value, outcome.attempts) == ("good", 2)
    assert counted(outcome.usage) == totals([model])


async def test_interrupts_of_a_surrounding_graph_pass_through(drive: Driver) -> None:
    with pytest.raises(GraphInterrupt):
        await drive(one(Call(raising(GraphInterrupt(())), "x", same, retries=3)))


async def test_who_hands_over_has_not_answered(drive: Driver) -> None:
    def hand_over(state: MessagesState) -> Command[Any]:
        return Command(goto="bob", graph=Command.PARENT, update={"messages": "transferred"})

    builder = StateGraph(MessagesState)
    builder.add_node("agent", hand_over)
    builder.add_edge(START, "agent")
    outcome = await drive(one(Call(builder.compile(), {"messages": "hi"}, same, retries=3)))
    assert outcome.attempts == 1
    assert "it handed over to 'bob'" in outcome.error


async def test_a_cancellation_from_within_is_a_failure() -> None:
    async def stray(_: Any) -> str:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
        return "never"

    call = Call(RunnableLambda(lambda _: "", stray), "x", same)
    outcome = await in_tasks(one(call))
    assert outcome.error == "ModelOutputError: it was cancelled from within"


async def test_a_cancellation_from_without_is_none() -> None:
    began = asyncio.Event()

    async def slow(_: Any) -> None:
        began.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(in_tasks(one(Call(RunnableLambda(slow), "x", same, retries=3))))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(("left", "attempts"), [(None, 3), (6, 3), (5, 2), (4, 2), (3, 1), (1, 1)])
async def test_a_chain_is_not_tried_again_beyond_its_calls(
    drive: Driver, left: int | None, attempts: int
) -> None:
    model = says("a")
    chain = model | (lambda m: m.text) | model
    call = Call(chain, "x", raising_parse, retries=2, calls=left)
    outcome = await drive(one(call))
    assert (outcome.attempts, outcome.usage["calls"]) == (attempts, 2 * attempts)


def raising_parse(_: Any) -> None:
    raise ModelOutputError("unusable")


@pytest.mark.parametrize(
    "reported",
    [{"input_tokens": 7, "total_tokens": 7}, {"input_tokens": None, "output_tokens": 3}, {}],
)
async def test_usage_that_is_not_whole_is_unreported(
    drive: Driver, reported: dict[str, Any]
) -> None:
    def reply(_: Any) -> AIMessage:
        message = AIMessage("hi")
        message.usage_metadata = reported  # type: ignore[assignment]
        return message

    model = Scripted(reply=reply, reports_usage=False)
    outcome = await drive(one(Call(model, "x", same, bound=50)))
    assert outcome.error is None
    assert (outcome.usage["calls"], outcome.usage["unreported"]) == (1, 1)
    assert outcome.usage["estimated"] == 50


@pytest.mark.parametrize("side", ["input_tokens", "output_tokens"])
@pytest.mark.parametrize(
    "told",
    [-1_000_000, -1, 10**30, 1_000_000, "50", "", True, 50.0, math.nan, math.inf, [5], {"a": 1}],
    ids=repr,
)
async def test_usage_that_cannot_be_is_unreported(drive: Driver, side: str, told: Any) -> None:
    """The bound is charged, whether a model or a graph that runs elsewhere reports it."""

    def reply(_: Any) -> AIMessage:
        message = AIMessage("hi")
        usage: Any = {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6, side: told}
        message.usage_metadata = usage
        return message

    model = Scripted(reply=reply, reports_usage=False).bind(max_tokens=100)
    outcome = await drive(one(Call(model, "x", same, bound=50)))
    assert outcome.error is None
    assert (outcome.usage["unreported"], outcome.usage["estimated"]) == (1, 50)
    assert outcome.usage["prompt_tokens"] == (0 if side == "input_tokens" else 4)
    assert outcome.usage["completion_tokens"] == (0 if side == "output_tokens" else 2)
    if told == 1_000_000:  # a graph that runs elsewhere may have had a longer prompt
        return
    elsewhere = RunnableLambda(lambda x: {"messages": [reply(x)]})
    outcome = await drive(one(Call(elsewhere, "x", same, bound=50)))
    assert (outcome.usage["unreported"], outcome.usage["estimated"]) == (1, 50)


async def test_a_template_may_bring_a_prompt_of_its_own(drive: Driver) -> None:
    def reply(_: Any) -> AIMessage:
        usage: Any = {"input_tokens": 3000, "output_tokens": 100, "total_tokens": 3100}
        return AIMessage("hi", usage_metadata=usage)

    model = Scripted(reply=reply, reports_usage=False).bind(max_tokens=100)
    outcome = await drive(one(Call(model, "x", same, bound=50)))
    assert counted(outcome.usage) == {
        "calls": 1, "prompt_tokens": 3000, "completion_tokens": 100, "unreported": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "limits",
    [
        {"max_tokens": 600, "max_completion_tokens": 50},
        {"max_tokens": 50, "extra_body": {"max_completion_tokens": 600}},
    ],
)
async def test_usage_up_to_the_largest_limit_is_believed(
    drive: Driver, limits: dict[str, Any]
) -> None:
    def reply(_: Any) -> AIMessage:
        usage: Any = {"input_tokens": 4, "output_tokens": 600, "total_tokens": 604}
        return AIMessage("hi", usage_metadata=usage)

    model = Scripted(reply=reply, reports_usage=False).bind(**limits)
    outcome = await drive(one(Call(model, "x", same, bound=50)))
    assert (outcome.usage["completion_tokens"], outcome.usage["unreported"]) == (600, 0)


async def test_past_deadline_starts_nothing(drive: Driver) -> None:
    model = says("hi")
    outcome = await drive(one(Call(model, "x", same, deadline=time.time() - 1)))
    assert (outcome.attempts, model.served) == (0, [])
    assert isinstance(outcome.cause, TimeoutError)
    assert outcome.usage["calls"] == 0


async def test_deadline_cancels_an_asynchronous_call() -> None:
    began = time.monotonic()
    outcome = await in_tasks(
        one(Call(says("hi", delay=60.0), "x", same, retries=3, deadline=time.time() + 3))
    )
    assert time.monotonic() - began < 30
    assert outcome.error == "TimeoutError: cancelled at the time limit"
    assert (outcome.attempts, outcome.usage["calls"]) == (1, 1)


async def test_deadline_also_where_a_model_hides_its_cancellation() -> None:
    async def stubborn(_: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("wrapped") from None

    call = Call(RunnableLambda(stubborn), "x", same, retries=3, deadline=time.time() + 3)
    outcome = await in_tasks(one(call))
    assert isinstance(outcome.cause, TimeoutError)
    assert outcome.attempts == 1


async def test_no_pause_past_the_deadline(drive: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 1000.0)  # the first takes 500 s
    began = time.monotonic()
    call = Call(raising(*[StatusError(503)] * 9), "x", same, retries=9, deadline=time.time() + 60)
    outcome = await drive(one(call))
    assert time.monotonic() - began < 30
    assert outcome.attempts == 1
    assert isinstance(outcome.cause, StatusError)


async def test_calls_of_one_list_run_side_by_side(drive: Driver) -> None:
    """Every call waits until all have started."""
    barrier = threading.Barrier(8)

    async def wait_for_the_others(number: int) -> int:
        await asyncio.to_thread(barrier.wait, 60)
        return number

    def wait_in_a_thread(number: int) -> int:
        barrier.wait(60)
        return number

    def several() -> Steps[list[Any]]:
        model = RunnableLambda(wait_in_a_thread, wait_for_the_others)
        outcomes = yield [Call(model, i, same) for i in range(8)]
        return [outcome.value for outcome in outcomes]

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16))
    assert await drive(several()) == list(range(8))


async def test_together_keeps_results_with_their_owners(drive: Driver) -> None:
    batches: list[int] = []

    def part(name: str, rounds: int) -> Steps[str]:
        said = name
        for i in range(rounds):
            model = RunnableLambda(lambda x: x)
            outcomes = yield [Call(model, f"{name}{i}{k}", same) for k in range(i + 1)]
            said += "".join(f" {outcome.value}" for outcome in outcomes)
        return said

    def watched() -> Steps[list[str]]:
        inner = merge_steps([part("a", 2), part("b", 0), part("c", 3)])
        batch = next(inner)
        while True:
            batches.append(len(batch))
            try:
                batch = inner.send((yield batch))
            except StopIteration as stop:
                return list(stop.value)

    assert await drive(watched()) == ["a a00 a10 a11", "b", "c c00 c10 c11 c20 c21 c22"]
    assert batches == [2, 4, 3]
    assert await drive(merge_steps([])) == []


# --- secrets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Incorrect API key provided: sk-proj-abcd1234efgh5678", "abcd1234"),
        ("sk_live_abcdefgh12345678 is expired", "abcdefgh"),
        ("{'Authorization': 'Bearer abc.def-ghi123'}", "abc.def"),
        ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("GET http://ada:hunter2@host:8000/v1 failed", "hunter2"),
        ("GET https://token0123@host/v1 failed", "token0123"),
        ("api_key=hunter2222", "hunter2222"),
        ("OPENAI_API_KEY=hunter2222", "hunter2222"),
        ('{"api_key": "hunter2222"}', "hunter2222"),
        ("x-api-key: hunter2222", "hunter2222"),
        ("url?access_token=hunter2222&x=1", "hunter2222"),
        ("hf_abcdefgh12345678", "abcdefgh"),
    ],
)
def test_secrets_are_masked(text: str, secret: str) -> None:
    masked = describe_error(ValueError(text))
    assert secret not in masked
    assert "***" in masked


def test_a_long_text_is_searched_once() -> None:
    text = "http://h:80/" * 200_000  # for ever, if each address were searched to the end
    assert len(describe_error(ValueError(text))) == 500
    long = describe_error(ValueError(f"https://user:{'k' * 3000}@host failed"))
    assert long == "ValueError: https://***@host failed"


def test_harmless_words_are_not_masked() -> None:
    text = "risk-averse sk: http://host:8000/v1 has no model 'pk'; keys: a, b; see https://x.y/a@b"
    assert describe_error(ValueError(text)) == f"ValueError: {text}"


def test_an_error_is_one_bounded_line_of_proper_text() -> None:
    line = describe_error(ValueError("a\n\tb \ud800 " + "x" * 1000))
    assert line.startswith("ValueError: a b ? xxx")
    assert len(line) == 500
    assert "\n" not in line


# --- the meter ------------------------------------------------------------------------------


def chain(model: Scripted) -> Any:
    return ChatPromptTemplate.from_messages([("user", "{x}")]) | model | StrOutputParser()


def graph(*models: Scripted) -> Any:
    builder = StateGraph(MessagesState)
    for i, model in enumerate(models):

        async def node(state: Any, model: Scripted = model) -> Any:
            return {"messages": [await model.ainvoke(state["messages"])]}

        def sync_node(state: Any, model: Scripted = model) -> Any:
            return {"messages": [model.invoke(state["messages"])]}

        builder.add_node(f"n{i}", RunnableLambda(sync_node, node))
        builder.add_edge(f"n{i - 1}" if i else START, f"n{i}")
    return builder.compile()


async def test_meter_sees_through_chains_and_graphs(drive: Driver) -> None:
    first, second = says("one two three"), says("four")
    nested = RunnableLambda(chain(first).invoke, chain(first).ainvoke)
    for runnable, payload, models in (
        (chain(first), {"x": "hello"}, [first]),
        (nested, {"x": "hello"}, [first]),
        (graph(first, second), {"messages": [("user", "hello")]}, [first, second]),
    ):
        for model in models:
            model.served.clear()
        outcome = await drive(one(Call(runnable, payload, same)))
        assert outcome.cause is None
        assert counted(outcome.usage) == totals(models)


async def test_a_message_of_no_model_is_no_call(drive: Driver) -> None:
    model = says("Rome")

    async def awrite(state: Any) -> Any:
        return {"messages": [AIMessage((await model.ainvoke(state["messages"])).content)]}

    def write(state: Any) -> Any:
        return {"messages": [AIMessage(model.invoke(state["messages"]).content)]}

    builder = StateGraph(MessagesState)
    builder.add_node("plan", lambda _: {"messages": [AIMessage("Let me look that up.")]})
    builder.add_node("write", RunnableLambda(write, awrite))
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "write")
    call = Call(builder.compile(), {"messages": [("user", "Capital?")]}, same, bound=50)
    outcome = await drive(one(call))
    assert counted(outcome.usage) == totals([model])
    assert outcome.usage["estimated"] == 0


async def test_meters_of_calls_side_by_side_do_not_mix(drive: Driver) -> None:
    models = [says("word " * i) for i in range(1, 6)]

    def several() -> Steps[list[CallResult]]:
        return (yield [Call(chain(model), {"x": "hi"}, same) for model in models])

    outcomes = await drive(several())
    assert [counted(outcome.usage) for outcome in outcomes] == [totals([model]) for model in models]


async def test_unreported_usage_is_counted_as_such(drive: Driver) -> None:
    outcome = await drive(one(Call(says("hi", reports_usage=False), "x", same)))
    assert counted(outcome.usage) == {**totals([]), "calls": 1, "unreported": 1}


def give(said: Any) -> Any:
    if isinstance(said, Exception):
        raise said
    return said


@pytest.mark.usefixtures("no_pauses")
async def test_what_no_callback_reports_counts_by_its_result(drive: Driver) -> None:
    usage = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    remote = RunnableLambda(lambda _: {"messages": [AIMessage("hi", usage_metadata=usage)]})
    seen = await drive(one(Call(remote, "x", same)))
    assert seen.usage["calls"] == 1
    assert (seen.usage["prompt_tokens"], seen.usage["completion_tokens"]) == (7, 2)
    message = AIMessage("hi", usage_metadata=usage)
    for left, attempts in ((None, 3), (2, 2)):  # each try counts, and none is made beyond them
        outcomes = [ConnectionResetError(), ConnectionResetError(), message]
        flaky = RunnableLambda(lambda _, said=outcomes: give(said.pop(0)))
        tried = await drive(one(Call(flaky, "x", same, retries=2, bound=50, calls=left)))
        assert (tried.attempts, tried.usage["calls"]) == (attempts, attempts)
        assert tried.usage["estimated"] == 50 * (attempts - (left is None))
    free = await drive(one(Call(RunnableLambda(lambda x: x), "x", same, is_model=False)))
    assert free.usage["calls"] == free.usage["unreported"] == 0


class WithoutChoices(Scripted):
    """A model whose server sends a reply without choices."""

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[])


def test_a_reply_that_a_client_cannot_read_is_told_from_other_errors() -> None:
    def index_error(_: Any) -> Any:
        raise IndexError("list index out of range")

    def told(runnable: Any) -> str:
        steps = merge_steps([one_call(Call(runnable, "Q", str))])
        return str(run(steps, RunnableConfig())[0].error)

    torn = json.JSONDecodeError("Expecting value", "<html>", 0)
    hint = "check_endpoint(url)"
    assert hint in told(Scripted(reply=lambda request: torn))
    assert hint in told(WithoutChoices(reply=lambda request: ""))
    assert told(WithoutChoices(reply=lambda _: "")).startswith("IndexError: list index")
    for other in (RunnableLambda(index_error), Scripted(reply=lambda _: ValueError("no"))):
        assert hint not in told(other)
    assert hint not in told(says("4") | RunnableLambda(index_error))


def one_call(call: Call) -> Steps[CallResult]:
    [result] = yield [call]
    return result
