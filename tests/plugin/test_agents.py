"""Agents over models, chains and graphs, and what they make of odd replies."""

import asyncio
import json
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import MessagesState, StateGraph
from pydantic import SecretStr

from mpdf_langgraph import Agent, Prompts, TextAnswer, create_deliberation
from mpdf_langgraph.agents import read_reply, response_from
from mpdf_langgraph.errors import ConfigurationError, ModelOutputError
from mpdf_langgraph.runtime import calls
from mpdf_langgraph.runtime.calls import Outcome
from mpdf_langgraph.state import no_usage
from tests.support.scripted import Request, Scripted, counted, says, totals

Q = {"question": "What is 2 + 2?"}


class WithTools(Scripted):
    """A scripted model that lets tools be bound to it."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[one.name for one in tools], **kwargs)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def adder() -> tuple[WithTools, Any]:
    """A model that asks its tool first, and the agent graph around it."""

    def reply(request: Request) -> AIMessage | str:
        if request.messages[-1].type == "tool":
            return f"The tool says so. Answer: {request.last}"
        call = {"name": "add", "args": {"a": 2, "b": 2}, "id": f"call-{request.number}"}
        return AIMessage("", tool_calls=[call])

    model = WithTools(reply=reply)
    return model, create_agent(model, [add])


def chain(model: Any) -> Any:
    return (
        ChatPromptTemplate.from_messages([("system", "Be kind."), MessagesPlaceholder("messages")])
        | model
        | StrOutputParser()
    )


# --- what can be an agent -------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_kind_of_runnable_proposes_and_refines(asynchronous: bool) -> None:
    """All of them at one table."""
    plain, bound, chained = says("a. Answer: 4"), says("b. Answer: 5"), says("c. Answer: 6")
    model, graph = adder()
    asked: list[list[BaseMessage]] = []

    def function(messages: list[BaseMessage]) -> str:
        asked.append(messages)
        return "d. Answer: 7"

    team = [
        plain,
        bound.bind(max_tokens=99),
        RunnableLambda(lambda messages: {"messages": messages}) | chain(chained),
        RunnableLambda(function),
        graph,
    ]
    deliberation = create_deliberation(
        team, critic=None, router="always-refine", max_rounds=1, stop_when_settled=False
    ).compile()
    if asynchronous:
        result = asyncio.run(deliberation.ainvoke(Q))["deliberation"]
    else:
        result = deliberation.invoke(Q)["deliberation"]
    assert result["votes"] == {f"agent-{i}": a for i, a in enumerate("45674", 1)}
    assert result["failures"] == []
    assert [len(m.requests) for m in (plain, bound, chained, model)] == [2, 2, 2, 4]
    assert len(asked) == 2
    usage = result["usage"]["agents"]
    assert counted(usage["agent-3"]) == totals([chained])
    assert counted(usage["agent-5"]) == totals([model])
    assert usage["agent-4"]["calls"] == usage["agent-4"]["unreported"] == 2
    assert bound.requests[0].kwargs["max_tokens"] == 99
    assert chained.requests[0].messages[0].text == "Be kind."


def remembering() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("agent", says("4"))
    builder.set_entry_point("agent")
    return builder.compile(checkpointer=True)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"name": ""}, "non-empty name"),
        ({"name": "a@b"}, "without '@'"),
        ({"name": "a+b"}, r"'\+'"),
        ({"runnable": lambda messages: "4"}, "RunnableLambda"),
        ({"runnable": StateGraph(MessagesState)}, "compile"),
        ({"runnable": "gpt"}, "chat model, chain or compiled graph"),
        ({"runnable": chain(says("4")), "sampling": {"temperature": 1}}, "inside the"),
        ({"competence": 1.5}, r"\[0, 1\]"),
        ({"competence": float("nan")}, r"\[0, 1\]"),
        ({"retries": -1}, "0 or more"),
        ({"runnable": remembering()}, "without checkpointer=True"),
        ({"runnable": remembering().with_config(tags=["x"])}, "without checkpointer=True"),
    ],
)
def test_wrong_agents_say_what_to_do(arguments: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        Agent(**{"name": "ann", "runnable": says("4"), **arguments})


# --- sampling -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "sampling", "refine_sampling", "expected"),
    [
        (None, {}, None, {"temperature": 0.6}),
        (1.0, {}, None, {"temperature": 0.6}),
        (0.3, {}, None, {"temperature": 0.3}),
        (1.0, {"temperature": 0.2}, None, {"temperature": 0.2}),
        (0.1, {"temperature": 1.0, "top_p": 0.5}, None, {"temperature": 0.6, "top_p": 0.5}),
        (1.0, {"temperature": 1.0}, {}, {}),
        (1.0, {"temperature": 1.0}, {"temperature": 0.9}, {"temperature": 0.9}),
    ],
)
def test_refining_is_cooler(
    made: float | None, sampling: Any, refine_sampling: Any, expected: dict[str, Any]
) -> None:
    agent = Agent(
        "ann", says("4", temperature=made), sampling=sampling, refine_sampling=refine_sampling
    )
    assert agent.sampling_for(refine=True) == expected
    assert agent.sampling_for(refine=False) == sampling


def test_the_largest_output_is_found_where_it_is_set() -> None:
    model = says("4", max_tokens=500)
    bound = model.bind(max_tokens=40).bind(temperature=0.1)
    assert Agent("a", says("4")).largest_output(refine=False) is None
    assert Agent("a", model).largest_output(refine=False) == 500
    assert Agent("a", bound).largest_output(refine=False) == 40
    assert Agent("a", bound).sampling_for(refine=True) == {"temperature": 0.1}
    own = Agent("a", bound, sampling={"max_tokens": 7}, refine_sampling={"max_tokens": 9})
    assert (own.largest_output(refine=False), own.largest_output(refine=True)) == (7, 9)
    openai = ChatOpenAI(model="m", api_key=SecretStr("x"), max_completion_tokens=11)
    assert Agent("a", openai).largest_output(refine=True) == 11


def test_description_is_plain_and_holds_no_secret() -> None:
    model = ChatOpenAI(
        model="Qwen/Qwen2.5-7B-Instruct",
        base_url="http://ada:hunter2@host/v1",
        api_key=SecretStr("sk-secret12345678"),
        temperature=1.0,
        default_headers={"X-Token": "headersecret"},
    )
    agent = Agent(
        "ann",
        model.bind(seed=7, user="userid"),
        system_prompt="private role",
        sampling={"max_tokens": 9, "extra_headers": {"X": "headersecret"}},
        competence=0.7,
    )
    described = agent.describe()
    assert described == {
        "name": "ann",
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "competence": 0.7,
        "sampling": {"temperature": 1.0, "max_tokens": 9, "seed": 7},
        "refine_sampling": {"temperature": 0.6, "max_tokens": 9, "seed": 7},
    }
    assert json.loads(json.dumps(described)) == described
    assert Agent("g", adder()[1]).describe()["model"] == "CompiledStateGraph"
    assert Agent("c", chain(model)).describe()["sampling"] == {}


# --- prompts --------------------------------------------------------------------------------


def test_conversation_order() -> None:
    agent = Agent(
        "ann", says("4"), system_prompt="Role.", prompts=Prompts(context="Notes: {context}")
    )
    history = [HumanMessage("Before?"), AIMessage("Then.")]
    messages = agent.conversation("Q?", schema=TextAnswer(), history=history, notes="N {x}")
    assert [m.type for m in messages] == ["system", "human", "ai", "human"]
    assert messages[0].text == "Role.\n\nNotes: N {x}"
    assert messages[-1].text == f"Q?\n\n{TextAnswer.instructions}"
    bare = Agent("bob", says("4")).conversation("{Q}", schema=TextAnswer(), history=[], notes="")
    assert [m.type for m in bare] == ["human"]
    assert bare[0].text.startswith("{Q}")


def test_refine_request_quotes_own_and_peers() -> None:
    turn = Agent("ann", says("4")).refine_turn(
        "Q?", schema=TextAnswer(), own="mine {0}", peers={"bob": "his {x}", "cy": "hers"}
    )
    assert (turn[0].type, turn[0].text) == ("ai", "mine {0}")
    assert "--- bob ---\nhis {x}\n--- cy ---\nhers" in turn[1].text


# --- replies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("  4\n", "4"),
        (AIMessage("4"), "4"),
        (AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (AIMessage([{"type": "reasoning", "reasoning": "hm"}, "4"]), "4"),
        ({"messages": [HumanMessage("Q"), AIMessage("4")]}, "4"),
        ({"messages": [HumanMessage("Q"), HumanMessage("4", name="worker")]}, "4"),
        (AIMessage("caf\ud83d"), "caf?"),
    ],
)
def test_text_of_a_reply(reply: Any, expected: str) -> None:
    assert read_reply(reply).text == expected


CALL = {"name": "add", "args": {}, "id": "1"}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        (AIMessage(" \n"), "empty"),
        (AIMessage([]), "empty"),
        (AIMessage("", tool_calls=[CALL]), "empty"),
        (AIMessage("", response_metadata={"finish_reason": "length"}), "'length'"),
        (AIMessage("half a", response_metadata={"model_provider": "openai"}), "ended before"),
        ({"messages": []}, "'messages'"),
        ({"messages": [AIMessage("4"), HumanMessage("And 2 + 2?")]}, "added no message"),
        ({"messages": [SystemMessage("You are ann.")]}, "added no message"),
        ({"output": "4"}, r"\['output'\]"),
        (None, "NoneType"),
        (4, "int"),
        (["4"], "list"),
    ],
)
def test_replies_that_are_none(reply: Any, reason: str) -> None:
    with pytest.raises(ModelOutputError, match=reason):
        read_reply(reply)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"stop_reason": "max_tokens"}, "length"),
        ({"stop_reason": "end_turn"}, "end_turn"),
        ({"model_provider": "openai", "status": "completed"}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
         "content_filter"),
        ({"status": "incomplete", "incomplete_details": None}, "length"),
        ({}, None),
    ],
)  # fmt: skip
def test_why_generation_ended_in_one_vocabulary(metadata: dict[str, Any], reason: Any) -> None:
    said = read_reply(AIMessage("Answer: 4", response_metadata=metadata))
    assert said.finish_reason == reason


def test_null_content_from_an_endpoint_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LONGEST_PAUSE", 0.001)
    broken = AIMessage("")
    cut = AIMessage("half", response_metadata={"model_provider": "openai", "finish_reason": None})
    model = says([broken, cut, "Answer: 4"])
    result = create_deliberation([Agent("ann", model, retries=2)], critic=None).compile().invoke(Q)
    assert result["deliberation"]["answer"] == "4"
    assert result["deliberation"]["usage"]["total"]["calls"] == 3


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        "none",
        {"content": None},
        {"content": [None]},
        {"content": [{"logprob": float("nan")}]},
        {"content": [{"logprob": -0.5}, {"logprob": None}]},
        {"content": [{"logprob": "-0.5"}]},
    ],
)
def test_unusable_log_probabilities_are_none(logprobs: Any) -> None:
    metadata = {"logprobs": logprobs, "finish_reason": 7, "model_name": None}
    said = read_reply(AIMessage("4", response_metadata=metadata))
    assert (said.token_logprobs, said.finish_reason, said.model) == ([], None, None)


def test_response_record() -> None:
    metadata = {
        "finish_reason": "length",
        "model_name": "m",
        "logprobs": {"content": [{"logprob": -0.2}, {"logprob": -0.4}]},
    }
    said = read_reply(AIMessage("Perhaps so. Answer: 4", response_metadata=metadata))
    outcome = Outcome(said, None, 1, 0.5, no_usage())
    record = response_from(outcome, response_id="ann@1", agent="ann", round_=1, schema=TextAnswer())
    assert (record["answer"], record["cluster"], record["critique"]) == ("4", None, None)
    assert record["profile"]["truncated"]
    assert record["logprobs"]["mean"] == pytest.approx(-0.3)
    assert record["logprobs"]["total"] == pytest.approx(-0.6)
