"""`RemoteGraph`s of a real server: as agents of a deliberation, and a deliberation as one."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, interrupt
from langgraph_sdk import get_client, get_sync_client

from mpdf_langgraph import Agent, as_tool, create_deliberation
from tests.integration.dev_server import ROOT, dev_server, needs_dev_server
from tests.integration.served import GRAPHS
from tests.integration.test_ways import Boss, boss, messages
from tests.support.scripted import counted, says, totals

pytestmark = [pytest.mark.integration, needs_dev_server]
BOTH = pytest.mark.parametrize("apart", [False, True], ids=["sync", "async"])
Q: Any = {"question": "How many?"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("remote")
    served = ROOT / "tests" / "integration" / "served.py"
    graphs = {name: f"{served}:{name}" for name in GRAPHS}
    (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    with dev_server(folder) as address:
        yield address


@pytest.fixture
async def remote(server: str) -> AsyncIterator[Any]:
    # Given an `url`, RemoteGraph makes clients of its own and never closes them.
    async with get_client(url=server) as client:
        with get_sync_client(url=server) as sync_client:
            yield lambda name: RemoteGraph(name, client=client, sync_client=sync_client)


async def call(graph: Any, given: Any, apart: bool, thread: str | None = None) -> Any:
    config: Any = {"configurable": {"thread_id": thread}} if thread else None
    return await graph.ainvoke(given, config) if apart else graph.invoke(given, config)


def debate(agents: list[Any], **options: Any) -> Any:
    defaults = {"critic": None, "router": "always-refine", "max_rounds": 1}
    return create_deliberation(agents, **{**defaults, **options})


# --- agents that run elsewhere --------------------------------------------------------------


@BOTH
async def test_agents_on_a_server_deliberate_with_one_here(remote: Any, apart: bool) -> None:
    here = says("I say seven. Answer: 7")
    team = [Agent("far", remote("counting")), Agent("too", remote("counting")), here]
    out = await call(debate(team, critic="logprob").compile(), Q, apart)
    # Each proposes on one human message and refines on two, with its own answer between them.
    assert out["deliberation"]["votes"] == {"far": "2", "too": "2", "agent-3": "7"}
    assert out["messages"][-1].text == "refine of 3. Answer: 2"
    assert out["deliberation"]["failures"] == []
    # Log-probabilities and usage come over the wire.
    assert out["deliberation"]["confidence"] == pytest.approx(0.9048, abs=1e-4)
    usage = out["deliberation"]["usage"]["agents"]
    assert usage["far"] == usage["too"]
    assert (usage["far"]["calls"], usage["far"]["unreported"]) == (2, 0)
    assert usage["far"]["completion_tokens"] == sum(
        -(-len(said) // 4) for said in ("propose of 1. Answer: 1", "refine of 3. Answer: 2")
    )
    assert counted(usage["agent-3"]) == totals([here])
    assert "propose of 1. Answer: 1" in here.requests[1].last


@BOTH
@pytest.mark.parametrize("thread", ["my thread", str(uuid.uuid4())], ids=["text", "uuid"])
async def test_no_conversation_piles_up_on_the_server(
    remote: Any, apart: bool, thread: str
) -> None:
    """A server knows threads, too. On the caller's an agent would read what others were told."""
    team = [Agent("far", remote("counting")), Agent("too", remote("counting"))]
    graph = debate(team, stop_when_settled=False).compile(checkpointer=InMemorySaver())
    thread = f"{thread[:-1]}{int(apart)}"
    for turn in (1, 2):
        # What this thread holds itself is history: a question and an answer for each turn.
        out = await call(graph, messages(f"Turn {turn}?"), apart, thread)
        assert out["deliberation"]["failures"] == []
        assert set(out["deliberation"]["votes"].values()) == {str(turn + 1)}


async def test_what_fails_on_a_server_costs_a_vote_and_says_why(remote: Any) -> None:
    names = ("broken", "asking", "silent", "slow")
    team = [Agent(name, remote(name), retries=0) for name in names]
    started = time.monotonic()
    async with get_client(url="http://127.0.0.1:9") as nobody:
        gone = RemoteGraph("counting", client=nobody)
        team += [Agent("gone", gone, retries=0), Agent("fine", remote("counting"))]
        graph = debate(team, timeout=10.0, max_rounds=0).compile(checkpointer=InMemorySaver())
        out = (await call(graph, Q, True, "1"))["deliberation"]
    assert time.monotonic() - started < 30
    assert out["votes"] == {**dict.fromkeys(names), "gone": None, "fine": "1"}
    failed = {failure.split("@")[0]: failure for failure in out["failures"]}
    assert "RemoteException" in failed["broken"]
    assert "OSError" in failed["broken"]
    assert "the remote graph was interrupted" in failed["asking"]
    assert "expected a message" in failed["silent"]
    assert "cancelled at the time limit" in failed["slow"]
    assert "ConnectError" in failed["gone"]
    # Not a token is known of a call that failed: it is charged at its bound.
    assert out["usage"]["agents"]["broken"]["unreported"] == 1
    assert out["usage"]["agents"]["broken"]["estimated"] > 0


@BOTH
async def test_tokens_of_agents_on_a_server_are_streamed(remote: Any, apart: bool) -> None:
    graph = debate([Agent("far", remote("counting"))]).compile()
    wanted: Any = {"stream_mode": "messages", "subgraphs": True}
    if apart:
        parts = [part async for part in graph.astream(Q, **wanted)]
    else:
        parts = list(graph.stream(Q, **wanted))
    # LangGraph passes them on as they come over the wire: as dicts.
    said = [data for _, data in parts if isinstance(data[0], dict)]
    assert "propose of 1. Answer: 1" in [message["content"] for message, _ in said]
    assert {metadata["mpdf_agent"] for _, metadata in said} == {"far"}


# --- a deliberation that runs elsewhere -----------------------------------------------------


class Floor(MessagesState):
    deliberation: dict[str, Any]
    round: int


def parent_of(node: Any, saver: Any = None) -> Any:
    builder = StateGraph(Floor)
    builder.add_node("team", node)
    builder.add_edge(START, "team")
    return builder.compile(checkpointer=saver)


async def check_node(remote: Any, apart: bool) -> None:
    graph = parent_of(remote("team"))
    out = await call(graph, {**messages("How many?"), "round": 7}, apart)
    assert [(m.type, m.name, m.text) for m in out["messages"]] == [
        ("human", None, "How many?"),
        ("ai", "team", "Four. Answer: 4"),
    ]
    assert out["round"] == 7
    assert out["deliberation"]["votes"] == {"agent-1": "4", "agent-2": "5", "agent-3": "4"}
    assert out["deliberation"]["usage"]["total"]["calls"] == 6


async def test_remote_sync(remote: Any) -> None:
    await check_node(remote, False)


async def test_remote_async(remote: Any) -> None:
    await check_node(remote, True)


async def test_remote_stream(remote: Any) -> None:
    """Events and tokens reach who streams the parent, either way."""
    graph = parent_of(remote("team"))
    wanted: Any = {"stream_mode": ["custom", "messages"], "subgraphs": True}
    together = list(graph.stream(messages("How many?"), **wanted))
    apart = [part async for part in graph.astream(messages("How many?"), **wanted)]
    for stream in (together, apart):
        events = [data["event"] for _, mode, data in stream if mode == "custom"]
        assert events.count("proposed") == 3
        assert events.count("refined") == 3
        assert events[-1] == "consensus"
        said = [data for _, mode, data in stream if mode == "messages"]
        speakers = {metadata.get("mpdf_agent") for _, metadata in said}
        assert {"agent-1", "agent-2", "agent-3"} <= speakers


class Waiting(MessagesState):
    asked: Any
    reply: Any


@BOTH
async def test_remote_resume(remote: Any, apart: bool) -> None:
    """A person here answers what a deliberation there asks. The page shows these two nodes."""
    graph = remote("unsure")

    def given(state: Waiting, config: RunnableConfig) -> tuple[Any, Any]:
        thread = {"configurable": {"thread_id": config["configurable"]["thread_id"]}}
        asked = {"messages": state["messages"]}
        return (Command(resume=state["reply"]) if state.get("reply") else asked), thread

    def taken(out: Any) -> Any:
        if asked := out.get("__interrupt__"):
            return Command(update={"asked": asked[0]["value"]}, goto="person")
        return {"messages": out["messages"], "reply": None}

    def team(state: Waiting, config: RunnableConfig) -> Any:
        return taken(graph.invoke(*given(state, config)))

    async def ateam(state: Waiting, config: RunnableConfig) -> Any:
        return taken(await graph.ainvoke(*given(state, config)))

    def person(state: Waiting) -> Any:
        return Command(update={"reply": interrupt(state["asked"])}, goto="team")

    builder = StateGraph(Waiting)
    builder.add_node("team", ateam if apart else team, destinations=("person",))
    builder.add_node("person", person, destinations=("team",))
    builder.add_edge(START, "team")
    app, thread = builder.compile(checkpointer=InMemorySaver()), str(uuid.uuid4())
    for turn in (1, 2):
        stopped = await call(app, messages(f"How many, {turn}?"), apart, thread)
        assert stopped["__interrupt__"][0].value["question"] == f"How many, {turn}?"
        again = await call(app, Command(resume={"action": "?"}), apart, thread)
        assert "cannot read" in again["__interrupt__"][0].value["error"]
        reply = {"action": "answer", "answer": f"Answer: {turn}"}
        out = await call(app, Command(resume=reply), apart, thread)
        assert "__interrupt__" not in out
        assert [m.type for m in out["messages"]] == ["human", "ai"] * turn
        assert out["messages"][-1].text == f"Answer: {turn}"


async def test_several_turns_on_one_thread(remote: Any) -> None:
    graph, thread = parent_of(remote("team"), InMemorySaver()), str(uuid.uuid4())
    for turn in (1, 2):
        out = await call(graph, messages(f"{turn}?"), turn == 2, thread)
        assert [m.type for m in out["messages"]] == ["human", "ai"] * turn


@BOTH
async def test_a_remote_deliberation_as_a_tool(remote: Any, apart: bool) -> None:
    tool = as_tool(remote("team"), name="team", description="Ask a team of experts.")
    model = boss("team", lambda question: {"question": question})
    agent = create_agent(model, [tool], checkpointer=InMemorySaver())
    for turn in (1, 2):  # the calls are no turns of one conversation
        out = await call(agent, messages(f"How many, {turn}?"), apart, "1")
        assert out["messages"][-1].text == "I am told: Four. Answer: 4"
        assert out["messages"][-2].artifact["support"] == pytest.approx(2 / 3)


@BOTH
async def test_a_remote_tool_that_fails_tells_the_model(remote: Any, apart: bool) -> None:
    def reply(request: Any) -> AIMessage | str:
        if request.messages[-1].type == "tool":
            return f"I am told: {request.last}"
        call = {"name": "team", "args": {"question": "How many?"}, "id": "1"}
        return AIMessage("", tool_calls=[call])

    tool = as_tool(remote("dead"), name="team", description="Ask a team of experts.")
    out = await call(create_agent(Boss(reply=reply), [tool]), messages("?"), apart)
    assert "no such key" in out["messages"][-1].text


def test_the_table_of_the_page_names_these_tests() -> None:
    [row] = [
        line
        for line in (ROOT / "docs" / "embedding.md").read_text().splitlines()
        if "`test_remote_sync`" in line
    ]
    cells = [cell.strip(" `") for cell in row.split("|")[2:-1]]
    assert cells == [f"test_remote_{way}" for way in ("sync", "async", "stream", "resume")]
    assert all(callable(globals()[cell]) for cell in cells)
