"""Agents over models, chains and graphs, and what they make of odd replies."""

import asyncio
import json
import re
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import MessagesState, StateGraph
from pydantic import SecretStr

from mpdf_langgraph import Agent, Prompts, TextAnswer, create_deliberation, vllm_chat_model
from mpdf_langgraph.errors import ConfigurationError, DeliberationError
from tests.support.scripted import Request, Scripted, counted, says, totals

Q = {"question": "What is 2 + 2?"}


class WithTools(Scripted):
    """A scripted model that lets tools be bound to it."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[one.name for one in tools], **kwargs)


class LikeGoogle(Scripted):
    """A scripted model that calls the limit of its output what Google's models call it."""

    max_output_tokens: int | None = None


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


def served(**options: Any) -> Any:
    return vllm_chat_model("http://localhost:1/v1", "m", **options)


def remembering() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("agent", says("4"))
    builder.set_entry_point("agent")
    return builder.compile(checkpointer=True)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"name": ""}, "non-empty name"),
        ({"name": 5}, "non-empty name"),
        ({"prompts": "x"}, "prompts must be Prompts"),
        ({"sampling": None}, "sampling must be a dict of options of the model, got None"),
        ({"refine_sampling": 0.2}, "refine_sampling must be a dict"),
        ({"sampling": {"temperature": "0.7"}}, r"sampling\['temperature'\] must be a number"),
        ({"name": "a@b"}, "without '@'"),
        ({"name": "a+b"}, r"'\+'"),
        ({"runnable": lambda messages: "4"}, "RunnableLambda"),
        ({"runnable": StateGraph(MessagesState)}, "compile"),
        ({"runnable": "gpt"}, "chat model, chain or compiled graph"),
        ({"runnable": chain(says("4")), "sampling": {"temperature": 1}}, "inside the"),
        ({"sampling": {"n": 3}}, "leave out n"),
        ({"refine_sampling": {"n": 3}}, "leave out n"),
        ({"sampling": {"extra_body": {"n": 3}}}, "leave out n"),
        ({"runnable": says("4").bind(n=3)}, "leave out n"),
        ({"runnable": served(n=3)}, "leave out n"),
        ({"runnable": served(n=3).bind(top_p=0.5)}, "leave out n"),
        ({"runnable": served(extra_body={"n": 3})}, "leave out n"),
        ({"competence": 1.5}, r"\[0, 1\]"),
        ({"competence": float("nan")}, r"\[0, 1\]"),
        ({"retries": -1}, "at least 0"),
        ({"system_prompt": None}, 'must be text, "" for none'),
        ({"system_prompt": 5}, "must be text"),
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
    google = LikeGoogle(reply=lambda _: "4", max_output_tokens=12)
    assert Agent("a", google).largest_output(refine=True) == 12
    assert Agent("a", google.bind(max_output_tokens=13)).largest_output(refine=False) == 13


def test_a_limit_by_the_name_of_googles_models_keeps_to_the_budget() -> None:
    google = LikeGoogle(reply=lambda _: "4", max_output_tokens=1000)
    graph = create_deliberation([google], critic=None, max_tokens=1000).compile()
    with pytest.raises(DeliberationError, match="does not allow a single proposal"):
        graph.invoke(Q)


@pytest.mark.parametrize(
    ("made", "bound", "sampling", "largest"),
    [
        ({"max_tokens": 300}, {}, {}, 300),
        ({"max_tokens": 300}, {}, {"max_completion_tokens": 50}, 50),
        ({"max_tokens": 300}, {"max_tokens": 600}, {"max_completion_tokens": 50}, 600),
        ({"max_tokens": 300}, {}, {"max_tokens": 600, "max_completion_tokens": 50}, 600),
        ({"max_tokens": 300}, {}, {"extra_body": {"max_completion_tokens": 900}}, 900),
        ({"max_tokens": 300, "extra_body": {"max_tokens": 900}}, {"max_tokens": 50}, {}, 900),
        ({"max_tokens": 300}, {}, {"max_tokens": None}, None),
        ({"max_tokens": None}, {"extra_body": {"top_k": 5}}, {}, None),
    ],
)
def test_of_several_limits_of_the_output_the_largest_counts(
    made: dict[str, Any], bound: dict[str, Any], sampling: dict[str, Any], largest: int | None
) -> None:
    agent = Agent("a", served(**made).bind(**bound), sampling=sampling)
    assert agent.largest_output(refine=False) == largest


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
    assert messages[-1].text.startswith("Q?\n\n")
    assert messages[-1].text.endswith(f" {TextAnswer.instructions}")
    bare = Agent("bob", says("4")).conversation("{Q}", schema=TextAnswer(), history=[], notes="")
    assert [m.type for m in bare] == ["human"]
    assert bare[0].text.startswith("{Q}")


def test_refine_request_quotes_own_and_peers() -> None:
    turn = Agent("ann", says("4")).refine_turn(
        "Q?", schema=TextAnswer(), own="mine {0}", peers={"bob": "his {x}", "cy": "hers"}
    )
    assert (turn[0].type, turn[0].text) == ("ai", "mine {0}")
    assert re.search(
        r"\[(\w+) begin: bob\]\nhis {x}\n\[\1 end\]\n\[\1 begin: cy\]\nhers\n", str(turn[1].text)
    )
