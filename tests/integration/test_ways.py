"""Every way to embed a deliberation, used synchronously, asynchronously, streamed and resumed.

The table in docs/embedding.md names these tests. The hosts are the real libraries.
"""

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from langgraph_swarm import create_handoff_tool, create_swarm
from typing_extensions import TypedDict

from mpdf_langgraph import Agent, ConfigurationError, as_tool, create_deliberation
from mpdf_langgraph.state import DeliberationState
from tests.support.running import asks_a_person
from tests.support.scripted import Request, Scripted, says

with warnings.catch_warnings():  # built on what langgraph 1 calls deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from langgraph_supervisor import create_supervisor

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"
QUESTION = "How many legs has a dog?"


class Boss(Scripted):
    """A chat model that can be given tools."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(one) for one in tools], **kwargs)


def boss(tool: str, arguments: Callable[[str], dict[str, str]] = lambda question: {}) -> Boss:
    """Calls `tool` once a turn, and then passes on what it was told."""
    numbers = itertools.count(1)

    def reply(request: Request) -> AIMessage | str:
        last = max(i for i, m in enumerate(request.messages) if isinstance(m, HumanMessage))
        asked, since = request.messages[last], request.messages[last + 1 :]
        if not any(message.type == "tool" for message in since):
            args = arguments(str(asked.text))
            return AIMessage(
                "", tool_calls=[{"name": tool, "args": args, "id": f"c{next(numbers)}"}]
            )
        told = [m for m in since if m.type != "human" and "Answer: " in m.text]
        return f"I am told: {told[-1].text}"

    return Boss(reply=reply)


@dataclass(frozen=True)
class Host:
    """A deliberation inside something.

    Attributes:
        graph: What is invoked.
        ask: Makes its input of a question.
        answer: Reads the answer out of its output.
    """

    graph: Any
    ask: Callable[[str], Any]
    answer: Callable[[Any], str]

    async def call(self, given: Any, *, apart: bool = False, thread: str | None = None) -> Any:
        """Invoke the graph, asynchronously where `apart`."""
        config: Any = {"configurable": {"thread_id": thread}} if thread else None
        return (
            await self.graph.ainvoke(given, config) if apart else self.graph.invoke(given, config)
        )


def messages(question: str) -> Any:
    return {"messages": [("user", question)]}


def last_message(out: Any) -> str:
    return str(out["messages"][-1].text)


def as_root(team: Any, saver: Any) -> Host:
    return Host(team.compile(checkpointer=saver), messages, last_message)


def as_node(team: Any, saver: Any) -> Host:
    parent = StateGraph(MessagesState)
    parent.add_node("team", team.compile())
    parent.add_edge(START, "team")
    return Host(parent.compile(checkpointer=saver), messages, last_message)


class Ticket(TypedDict, total=False):
    """A state that has nothing in common with a deliberation's."""

    subject: str
    verdict: str


def in_wrapper(team: Any, saver: Any) -> Host:
    graph = team.compile()

    def decide(state: Ticket) -> Ticket:
        out = graph.invoke({"question": state["subject"]})
        return {"verdict": out["messages"][-1].text}

    async def adecide(state: Ticket) -> Ticket:
        out = await graph.ainvoke({"question": state["subject"]})
        return {"verdict": out["messages"][-1].text}

    parent = StateGraph(Ticket)
    parent.add_node("decide", RunnableLambda(decide, adecide))
    parent.add_edge(START, "decide")
    return Host(
        parent.compile(checkpointer=saver),
        lambda question: {"subject": question},
        lambda out: out["verdict"],
    )


def in_supervisor(team: Any, saver: Any) -> Host:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        workflow = create_supervisor([team.compile(name="team")], model=boss("transfer_to_team"))
    return Host(workflow.compile(checkpointer=saver), messages, last_message)


def in_swarm(team: Any, saver: Any) -> Host:
    handoff = create_handoff_tool(agent_name="team", description="Ask the team")
    front = create_agent(boss("transfer_to_team"), [handoff], name="front")
    workflow = create_swarm([front, team.compile(name="team")], default_active_agent="front")
    return Host(workflow.compile(checkpointer=saver), messages, last_message)


def in_tool(team: Any, saver: Any) -> Host:
    tool = as_tool(team.compile(), name="team", description="Ask a team of experts.")
    model = boss("team", lambda question: {"question": question})
    return Host(create_agent(model, [tool], checkpointer=saver), messages, last_message)


def in_deep_agent(team: Any, saver: Any) -> Host:
    from deepagents import create_deep_agent  # takes seconds to import

    subagent = {"name": "team", "description": "Experts.", "runnable": team.compile()}
    model = boss("task", lambda asked: {"description": asked, "subagent_type": "team"})
    graph = create_deep_agent(model, subagents=[subagent], checkpointer=saver)
    return Host(graph, messages, last_message)


def in_task(team: Any, saver: Any) -> Host:
    graph = team.compile()

    @task
    def decide(question: str) -> str:
        return str(graph.invoke({"question": question})["messages"][-1].text)

    @task
    async def adecide(question: str) -> str:
        return str((await graph.ainvoke({"question": question}))["messages"][-1].text)

    @entrypoint(checkpointer=saver)
    def workflow(question: str) -> str:
        return decide(question).result()

    @entrypoint(checkpointer=saver)
    async def aworkflow(question: str) -> str:
        return await adecide(question)

    return Host(Both(workflow, aworkflow), lambda question: question, lambda out: out)


@dataclass(frozen=True)
class Both:
    """A Functional API workflow has one colour, so there are two."""

    sync: Any
    asynchronous: Any

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        return self.sync.invoke(*args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        return self.sync.stream(*args, **kwargs)

    async def ainvoke(self, *args: Any, **kwargs: Any) -> Any:
        return await self.asynchronous.ainvoke(*args, **kwargs)

    def astream(self, *args: Any, **kwargs: Any) -> Any:
        return self.asynchronous.astream(*args, **kwargs)


WAYS = {
    "root": as_root,
    "node": as_node,
    "wrapper": in_wrapper,
    "supervisor": in_supervisor,
    "swarm": in_swarm,
    "tool": in_tool,
    "deepagents": in_deep_agent,
    "task": in_task,
}
every_way = pytest.mark.parametrize("way", WAYS)


def team(*agents: Any, **options: Any) -> Any:
    """Three voters of whom two say 4, in two rounds."""
    voters = agents or (says("Four. Answer: 4"), says("Five. Answer: 5"), says("Four. Answer: 4"))
    defaults = {"critic": None, "router": "always-refine", "max_rounds": 1, "name": "team"}
    return create_deliberation(voters, **{**defaults, **options})


@every_way
async def test_sync(way: str) -> None:
    host = WAYS[way](team(), None)
    assert "Four. Answer: 4" in host.answer(await host.call(host.ask(QUESTION)))


@every_way
async def test_async(way: str) -> None:
    host = WAYS[way](team(), None)
    assert "Four. Answer: 4" in host.answer(await host.call(host.ask(QUESTION), apart=True))


@every_way
async def test_stream(way: str) -> None:
    """Events and tokens of the team reach who streams the outermost graph, either way."""
    wanted = {"stream_mode": ["custom", "messages"], "subgraphs": True}
    host = WAYS[way](team(), None)
    together = list(host.graph.stream(host.ask(QUESTION), **wanted))
    apart = [part async for part in host.graph.astream(host.ask(QUESTION), **wanted)]
    for stream in (together, apart):
        events = [data["event"] for _, mode, data in stream if mode == "custom"]
        assert events.count("proposed") == 3
        assert events.count("refined") == 3
        assert events[-1] == "consensus"
        said = [data for _, mode, data in stream if mode == "messages"]
        speakers = {metadata.get("mpdf_agent") for _, metadata in said}
        assert {"agent-1", "agent-2", "agent-3"} <= speakers


@pytest.mark.parametrize("apart", [False, True], ids=["sync", "async"])
@every_way
async def test_resume(way: str, apart: bool) -> None:
    """An interrupt of one agent reaches the caller. On resume its finished peer is not asked."""
    peer = says("Five. Answer: 5")
    options = {"router": "always-persist", "consensus": "majority"}
    builder = team(asks_a_person("How many?"), peer, **options)
    host = WAYS[way](builder, InMemorySaver())
    stopped = await host.call(host.ask(QUESTION), apart=apart, thread="1")
    assert [one.value for one in stopped["__interrupt__"]] == ["How many?"]
    out = await host.call(Command(resume="7"), apart=apart, thread="1")
    assert "With leave. Answer: 7" in host.answer(out)
    assert len(peer.requests) == 1


@every_way
async def test_a_person_is_asked(way: str) -> None:
    """Who invoked the outermost graph is told how the vote stands, and has the last word."""
    voters = [says("Four. Answer: 4"), says("Five. Answer: 5")]
    builder = team(*voters, interrupt_when=lambda standing: standing["support"] < 0.6, max_rounds=0)
    host = WAYS[way](builder, InMemorySaver())
    stopped = await host.call(host.ask(QUESTION), thread="1")
    [asked] = [one.value for one in stopped["__interrupt__"]]
    assert asked["question"] == QUESTION
    assert asked["votes"] == {"agent-1": "4", "agent-2": "5"}
    out = await host.call(Command(resume={"action": "answer", "answer": "Answer: 4"}), thread="1")
    assert "Answer: 4" in host.answer(out)
    assert [model.kinds() for model in voters] == [["propose"]] * 2


@pytest.mark.parametrize("apart", [False, True], ids=["sync", "async"])
@every_way
async def test_crash(way: str, apart: bool) -> None:
    """What was done before an error is kept: on the second try nobody proposes again."""
    voters = [says("Four. Answer: 4"), says("4, surely. Answer: 4")]
    faults = iter([True])

    def rule(votes: Any) -> int:
        if next(faults, False):
            raise OSError("the disk is full")
        return 0

    host = WAYS[way](team(*voters, consensus=rule), InMemorySaver())
    with pytest.raises(ConfigurationError, match="the disk is full"):
        await host.call(host.ask(QUESTION), apart=apart, thread="1")
    out = await host.call(None, apart=apart, thread="1")
    assert "Four. Answer: 4" in host.answer(out)
    assert [model.kinds() for model in voters] == [["propose"]] * 2


@every_way
async def test_turns(way: str) -> None:
    """On one thread every question is answered anew, and what agents know stays theirs."""
    model = says("No. Answer: 1", "Yes. Answer: 2")
    knowing = Agent("knowing", model, context=lambda question: f"SECRET about {question}")
    host = WAYS[way](team(knowing, says("Two. Answer: 2")), InMemorySaver())
    keys: set[str] = set()
    for turn, question in enumerate(("What is first?", "What is second?"), 1):
        out = await host.call(host.ask(question), thread="1")
        assert "Answer: " in host.answer(out)
        assert model.kinds() == ["propose", "refine"] * turn
        proposal, refinement = model.requests[-2:]
        assert question in proposal.last
        assert "first" not in proposal.last or turn == 1
        for request in (proposal, refinement):
            assert f"SECRET about {question}" in str(request.messages[0].text)
            assert request.text.count("SECRET") == 1
        assert "SECRET" not in repr(out)
        keys |= set(out) if isinstance(out, dict) else set()
    # Nothing of a deliberation's state in the host's, but for what a root graph gives back.
    private = set(DeliberationState.__annotations__) - {"messages"}
    assert keys & private == ({"deliberation"} if way == "root" else set())


def test_the_table_of_the_page_names_these_tests() -> None:
    tests = ("test_sync", "test_async", "test_stream", "test_resume")
    rows = [line for line in PAGE.read_text().splitlines() if "test_sync[" in line]
    wanted = [[f"`{test}[{way}]`" for test in tests] for way in WAYS]
    cells = [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows]
    assert cells == wanted
