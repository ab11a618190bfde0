"""A deliberation as a tool."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import START, MessagesState, StateGraph

from mpdf_langgraph import ConfigurationError, Unsure, as_tool, create_deliberation
from tests.integration.test_ways import Boss, messages
from tests.support.scripted import Request, says


def tool_of(*models: Any, **options: Any) -> Any:
    graph = create_deliberation(models, **{"critic": None, "max_rounds": 0, **options}).compile()
    return as_tool(graph, name="ask_team", description="Ask a team of experts.")


def calls(*arguments: dict[str, Any]) -> Any:
    """An agent's model that makes these calls at once, and then repeats what it is told."""

    def reply(request: Request) -> AIMessage | str:
        told = [str(m.text) for m in request.messages if isinstance(m, ToolMessage)]
        if told:
            return " / ".join(told)
        made = [{"name": "ask_team", "args": a, "id": str(i)} for i, a in enumerate(arguments)]
        return AIMessage("", tool_calls=made)

    return Boss(reply=reply)


def test_what_the_calling_model_is_shown() -> None:
    tool = tool_of(says("4"))
    assert (tool.name, tool.description) == ("ask_team", "Ask a team of experts.")
    schema = tool.tool_call_schema.model_json_schema()
    assert schema["required"] == ["question"]
    assert set(schema["properties"]) == {"question"}
    assert "complete in itself" in schema["properties"]["question"]["description"]


async def test_content_is_the_winning_response_and_artifact_the_outcome() -> None:
    call = {"name": "ask_team", "args": {"question": " 2 + 2? "}, "id": "1", "type": "tool_call"}
    model = says("Four. Answer: 4")
    for message in (tool_of(model).invoke(call), await tool_of(model).ainvoke(call)):
        assert message.content == "Four. Answer: 4"
        assert message.artifact["answer"] == "4"
        assert message.artifact["usage"]["total"]["calls"] == 1
        assert message.status == "success"
    assert all("2 + 2?" in request.last for request in model.requests)


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()])
async def test_several_calls_at_once_do_not_meet(checkpointer: Any) -> None:
    asked = [{"question": "One?"}, {"question": "Three?"}, {"question": "Eleven?"}]
    for apart in (False, True):
        model = says("x")
        model.reply = lambda request: f"It is {request.last.split('?')[0]}"
        agent = create_agent(calls(*asked), [tool_of(model)], checkpointer=checkpointer)
        config: Any = {"configurable": {"thread_id": str(apart)}}
        given: Any = messages("Go.")
        out = await agent.ainvoke(given, config) if apart else agent.invoke(given, config)
        assert out["messages"][-1].text == "It is One / It is Three / It is Eleven"


async def test_a_failed_deliberation_is_told_to_the_calling_model() -> None:
    dead = says(ValueError("no power"))
    for apart in (False, True):
        agent = create_agent(calls({"question": "2 + 2?"}), [tool_of(dead, dead)])
        given: Any = messages("Go.")
        out = await agent.ainvoke(given) if apart else agent.invoke(given)
        *_, told, last = out["messages"]
        assert told.status == "error"
        assert "every agent's proposal failed" in last.text
        assert "no power" in last.text


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_interrupt_is_no_answer(asynchronous: bool) -> None:
    graph = create_deliberation(
        [says("Answer: 4"), says("Answer: 5")],
        critic=None,
        max_rounds=0,
        interrupt_when=Unsure(support_below=0.9),
    ).compile(checkpointer=InMemorySaver())
    tool = as_tool(graph, name="ask_team", description="Ask a team of experts.")
    asked: Any = {"question": "2 + 2?"}, {"configurable": {"thread_id": "1"}}
    with pytest.raises(GraphInterrupt):
        await tool.ainvoke(*asked) if asynchronous else tool.invoke(*asked)


@pytest.mark.parametrize("saver", [None, InMemorySaver(), True], ids=["none", "own", "lent"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_call_sees_nothing_of_the_calls_before(saver: Any, asynchronous: bool) -> None:
    model = says("Answer: 4")
    graph = create_deliberation([model], critic=None, max_rounds=0).compile(checkpointer=saver)
    asked: dict[str, Any] = {}

    def reply(request: Request) -> AIMessage | str:
        if isinstance(request.messages[-1], ToolMessage):
            return "Done."
        call = {"name": "ask_team", "args": {"question": request.last}, "id": str(request.number)}
        return AIMessage("", tool_calls=[call])

    tool = as_tool(graph, name="ask_team", description="Ask a team of experts.")
    agent = create_agent(Boss(reply=reply), [tool], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": f"{saver}/{asynchronous}"}}
    for question in ("One?", "Two?"):
        given: Any = messages(question)
        out = await agent.ainvoke(given, config) if asynchronous else agent.invoke(given, config)
        asked[question] = [str(m.text).splitlines()[0] for m in model.requests[-1].messages]
        assert [m.type for m in out["messages"][-4:]] == ["human", "ai", "tool", "ai"]
    assert asked == {"One?": ["One?"], "Two?": ["Two?"]}


def test_a_root_graph_with_a_checkpointer_starts_anew_too() -> None:
    model = says("Answer: 4")
    builder = create_deliberation([model], critic=None, max_rounds=0)
    graph = builder.compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    graph.invoke({"question": "One?", "contexts": {"agent-1": "a secret"}}, thread)
    as_tool(graph, name="x", description="y").invoke({"question": "Two?"}, thread)
    assert [str(m.text).splitlines()[0] for m in model.requests[-1].messages] == ["Two?"]
    tied = as_tool(graph.with_config(thread), name="x", description="y")
    assert tied.invoke({"question": "Three?"}) == "Answer: 4"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("saver", "match"), [(InMemorySaver(), "no thread id"), (True, "checkpointer=True")]
)
async def test_a_checkpointer_without_a_thread_is_refused(
    saver: Any, match: str, asynchronous: bool
) -> None:
    graph = create_deliberation([says("4")], critic=None, max_rounds=0).compile(checkpointer=saver)
    tool = as_tool(graph, name="x", description="y")
    asked: Any = {"question": "2 + 2?"}, {"configurable": {"user": "ann"}}
    with pytest.raises(ConfigurationError, match=match):
        await tool.ainvoke(*asked) if asynchronous else tool.invoke(*asked)


def test_a_checkpointer_of_its_own_is_of_no_use_where_the_host_has_none() -> None:
    graph = create_deliberation([says("4")], critic=None, max_rounds=0)
    tool = as_tool(graph.compile(checkpointer=InMemorySaver()), name="ask_team", description="x")
    out = create_agent(calls({"question": "2 + 2?"}), [tool]).invoke(messages("Go."))
    assert out["messages"][-1].text == "4"


@pytest.mark.parametrize("arguments", [{"question": " "}, {}, {"query": "2 + 2?"}])
def test_a_call_without_a_question_is_told_to_the_calling_model(arguments: Any) -> None:
    model = says("4")
    out = create_agent(calls(arguments), [tool_of(model)]).invoke(messages("Go."))
    assert "question" in out["messages"][-1].text
    assert out["messages"][-2].status == "error"
    assert not model.requests


def test_errors_in_the_configuration_are_raised() -> None:
    def rule(votes: Any) -> int:
        raise KeyError("no such cluster")

    with pytest.raises(ConfigurationError, match="no such cluster"):
        tool_of(says("4"), says("5"), consensus=rule).invoke({"question": "2 + 2?"})


def test_another_graph_is_refused() -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("echo", lambda state: {"messages": []})
    builder.add_edge(START, "echo")
    tool = as_tool(builder.compile(), name="x", description="y")
    with pytest.raises(ConfigurationError, match="holds no `deliberation`"):
        tool.invoke({"question": "2 + 2?"})


def test_a_builder_is_refused() -> None:
    builder: Any = create_deliberation([says("4")], critic=None)
    with pytest.raises(ConfigurationError, match=r"compiled graph.*compile\(\)"):
        as_tool(builder, name="x", description="y")
