"""A deliberation inside other graphs, tools and checkpointers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from mpdf_langgraph import Agent, create_deliberation
from tests.support.scripted import Request, Scripted, says


def counting(request: Request) -> str:
    """Answer with the number of human messages seen, one of them being the question."""
    humans = sum(message.type == "human" for message in request.messages)
    return f"{request.kind} no. {request.number}. Answer: {humans}"


def team(**options: Any) -> Any:
    models = [says("a. Answer: 4"), says("b. Answer: 5"), says("c. Answer: 4")]
    defaults = {"critic": None, "router": "always-refine", "max_rounds": 2, "name": "team"}
    return create_deliberation(models, **{**defaults, **options})


def on(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()])
def test_node_with_shared_messages(checkpointer: Any) -> None:
    parent = StateGraph(MessagesState)
    parent.add_node("team", team().compile())
    parent.add_edge(START, "team")
    graph = parent.compile(checkpointer=checkpointer)
    out = graph.invoke({"messages": [("user", "2 + 2?")]}, on("1"))
    assert [m.type for m in out["messages"]] == ["human", "ai"]
    assert out["messages"][-1].name == "team"
    assert out["messages"][-1].text == "a. Answer: 4"
    assert set(out) == {"messages"}
    if checkpointer:
        again = graph.invoke({"messages": [("user", "And again?")]}, on("1"))
        assert [m.type for m in again["messages"]] == ["human", "ai"] * 2


def test_events_and_tokens_reach_the_caller_of_the_parent() -> None:
    parent = StateGraph(MessagesState)
    parent.add_node("team", team().compile())
    parent.add_edge(START, "team")
    stream = parent.compile().stream(
        {"messages": [("user", "2 + 2?")]}, stream_mode="custom", subgraphs=True
    )
    events = [event for _, event in stream]
    assert [event["event"] for event in events[:4]] == ["proposed"] * 3 + ["consensus"]
    assert "stopped: max_rounds" in events[-1]["text"]


PARENT_KEYS = {
    "round": 3,
    "phase": "decide",
    "responses": {"agent-1@0": "junk"},
    "failures": ["junk"],
    "held": {"agent-1": "junk"},
    "turns": ["junk"],
    "header": {"id": "junk"},
    "notes": {"agent-1": "junk"},
}


class Parent(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    question: str
    round: int
    phase: str
    responses: dict[str, str]
    failures: list[str]
    held: dict[str, str]
    turns: list[str]
    header: dict[str, str]
    notes: dict[str, str]


def test_same_named_keys_of_a_parent_do_not_leak() -> None:
    saw: list[dict[str, Any]] = []
    parent = StateGraph(Parent)
    parent.add_node("team", team().compile())
    parent.add_node("look", lambda state: saw.append(dict(state)))
    parent.add_edge(START, "team")
    parent.add_edge("team", "look")
    graph = parent.compile(checkpointer=InMemorySaver())
    for turn in (1, 2):
        out = graph.invoke({**PARENT_KEYS, "messages": [("user", f"{turn}?")]}, on("1"))
        assert {key: out[key] for key in PARENT_KEYS} == PARENT_KEYS
        assert {key: saw[-1][key] for key in PARENT_KEYS} == PARENT_KEYS
        assert "question" not in out
        assert [m.type for m in out["messages"]] == ["human", "ai"] * turn


def test_the_declared_input_of_a_parent_is_taken() -> None:
    model = Scripted(reply=counting)
    parent = StateGraph(Parent)
    parent.add_node("team", create_deliberation([model], critic=None).compile())
    parent.add_edge(START, "team")
    out = parent.compile().invoke({"question": "From the parent?", "messages": []})
    assert "From the parent?" in model.requests[0].last
    assert out["question"] == "From the parent?"


async def test_root_with_an_async_sqlite_checkpointer(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    model = Scripted(reply=counting)
    build = create_deliberation([model], critic=None, router="always-refine", max_rounds=1)
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        graph = build.compile(checkpointer=saver)
        out = await graph.ainvoke({"question": "One?"}, on("1"))
        assert out["deliberation"]["answer"] == "1"
        await graph.ainvoke({"question": "Two?"}, on("1"), interrupt_before=["critic"])
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        graph = build.compile(checkpointer=saver)
        out = await graph.ainvoke(None, on("1"))
        assert out["deliberation"]["answer"] == "2"
        assert [m.type for m in out["messages"]] == ["human", "ai"] * 2
        other = await graph.ainvoke({"question": "Elsewhere?"}, on("2"))
        assert len(other["messages"]) == 2


@dataclass
class Session:
    user: str


def test_parent_with_a_context_object_of_its_own() -> None:
    users: list[str] = []

    def greet(state: MessagesState, runtime: Runtime[Session]) -> None:
        users.append(runtime.context.user)

    parent = StateGraph(MessagesState, context_schema=Session)
    parent.add_node("greet", greet)
    parent.add_node("team", team(critic="self+logprob").compile())
    parent.add_edge(START, "greet")
    parent.add_edge("greet", "team")
    out = parent.compile().invoke({"messages": [("user", "2 + 2?")]}, context=Session("ada"))
    assert users == ["ada"]
    assert out["messages"][-1].name == "team"


class Supervisor(Scripted):
    """Asks its tool with the user's words, and passes on what comes back."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[one.name for one in tools], **kwargs)


def supervise(request: Request) -> AIMessage | str:
    if request.messages[-1].type == "tool":
        return f"The team says: {request.last}"
    call = {"name": "ask_the_team", "args": {"question": request.last}, "id": "call"}
    return AIMessage("", tool_calls=[call])


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()])
async def test_tool_of_an_agent(checkpointer: Any) -> None:
    graph = team().compile()

    @tool
    def ask_the_team(question: str) -> str:
        """Ask a team of experts."""
        return str(graph.invoke({"question": question})["messages"][-1].text)

    agent = create_agent(Supervisor(reply=supervise), [ask_the_team], checkpointer=checkpointer)
    asked = {"messages": [("user", "2 + 2?")]}
    out = agent.invoke(asked, on("1"))
    assert out["messages"][-1].text == "The team says: a. Answer: 4"
    out = await agent.ainvoke(asked, on("2"))
    assert [m.type for m in out["messages"]] == ["human", "ai", "tool", "ai"]
    assert out["messages"][-1].text == "The team says: a. Answer: 4"


def careful(checkpointer: Any = None) -> Any:
    """An agent graph that asks a person before it answers."""

    def ask(state: MessagesState) -> dict[str, Any]:
        approved = interrupt("May I answer?")
        return {"messages": [AIMessage(f"With leave. Answer: {approved}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    return builder.compile(checkpointer=checkpointer)


async def test_interrupt_inside_an_agent_reaches_the_caller_and_is_resumed() -> None:
    plain = says("b. Answer: 4")
    graph = create_deliberation(
        [Agent("careful", careful()), Agent("plain", plain)],
        critic=None,
        router="always-persist",
        consensus="majority",
    ).compile(checkpointer=InMemorySaver())
    stopped = graph.invoke({"question": "2 + 2?"}, on("1"))
    assert [i.value for i in stopped["__interrupt__"]] == ["May I answer?"]
    out = graph.invoke(Command(resume="5"), on("1"))
    assert out["deliberation"]["votes"] == {"careful": "5", "plain": "4"}
    assert len(plain.requests) == 1
    stopped = await graph.ainvoke({"question": "2 + 2?"}, on("2"))
    assert [i.value for i in stopped["__interrupt__"]] == ["May I answer?"]
    out = await graph.ainvoke(Command(resume="5"), on("2"))
    assert out["deliberation"]["votes"] == {"careful": "5", "plain": "4"}


def test_config_of_the_caller_reaches_the_models() -> None:
    seen: list[RunnableConfig] = []

    def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        seen.append(config)
        return {"messages": [AIMessage("Answer: 4")]}

    builder = StateGraph(MessagesState)
    builder.add_node("only", node)
    builder.add_edge(START, "only")
    graph = create_deliberation([Agent("ann", builder.compile())], critic=None).compile()
    graph.invoke(
        {"question": "2 + 2?"},
        {"tags": ["mine"], "metadata": {"tenant": "7"}, "configurable": {"user": "ada"}},
    )
    [config] = seen
    assert config["configurable"]["user"] == "ada"
    assert config["metadata"]["tenant"] == "7"
    assert config["metadata"]["mpdf_agent"] == "ann"
