"""Parents of other kinds: their reducers, their same-named keys and their context stay theirs."""

import operator
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from langchain.agents import AgentState, create_agent
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph_swarm import SwarmState, create_handoff_tool, create_swarm
from typing_extensions import TypedDict

from mpdf_langgraph import Agent, TraceReader, create_deliberation
from tests.integration.test_ways import boss, messages, team
from tests.support.scripted import says

with warnings.catch_warnings():  # built on what langgraph 1 calls deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from langgraph_supervisor import create_supervisor


def merged(left: dict[str, str], right: dict[str, str]) -> dict[str, str]:
    return {**left, **right}


class Ledger(TypedDict):
    """A deliberation's input and private keys, all with other reducers or other types."""

    messages: list[AnyMessage]  # no reducer: the last write wins
    question: Annotated[str, operator.add]
    reference: Annotated[str, operator.add]
    contexts: Annotated[dict[str, str], merged]
    notes: Annotated[list[str], operator.add]
    turns: Annotated[int, operator.add]
    round: Annotated[int, operator.add]
    phase: Annotated[str, operator.add]
    responses: Annotated[list[str], operator.add]
    header: str


LEDGER: dict[str, Any] = {
    "question": "Who?",
    "reference": "r",
    "contexts": {"agent-1": "SECRET"},
    "notes": ["n"],
    "turns": 3,
    "round": 5,
    "phase": "decide",
    "responses": ["junk"],
    "header": "h",
}


def test_reducers_of_a_parent_see_no_writes_but_to_what_is_shared() -> None:
    model = says("One. Answer: 1")
    parent = StateGraph(Ledger)
    parent.add_node("team", create_deliberation([model], critic=None).compile())
    parent.add_edge(START, "team")
    out = parent.compile(checkpointer=InMemorySaver()).invoke(
        {**LEDGER, "messages": [HumanMessage("What?")]}, {"configurable": {"thread_id": "1"}}
    )
    assert {key: out[key] for key in LEDGER} == LEDGER
    assert [m.text for m in out["messages"]] == ["What?", "One. Answer: 1"]
    # In go the declared keys alone: a question that waits, and what the agent may know.
    assert "What?" in model.requests[0].last
    assert "SECRET" in model.requests[0].text


class Asking(MessagesState):
    question: str


def test_the_declared_input_of_a_parent_is_taken() -> None:
    model = says("Answer: 4")
    parent = StateGraph(Asking)
    parent.add_node("team", create_deliberation([model], critic=None).compile())
    parent.add_edge(START, "team")
    out = parent.compile().invoke({"question": "From the parent?", "messages": []})
    assert "From the parent?" in model.requests[0].last
    assert out["question"] == "From the parent?"


class Graded(MessagesState):
    reference: str | None
    category: str | None
    contexts: dict[str, str] | None


def test_a_parent_keeps_what_came_with_a_question_until_it_is_given_anew(tmp_path: Path) -> None:
    model = says("Answer: 4")
    team = create_deliberation([model], critic=None, max_rounds=0, traces=tmp_path)
    parent = StateGraph(Graded)
    parent.add_node("team", team.compile())
    parent.add_edge(START, "team")
    app = parent.compile(checkpointer=InMemorySaver())
    nothing = {"reference": None, "category": None, "contexts": None}
    for given in (
        {"reference": "4", "category": "sums", "contexts": {"agent-1": "a secret"}},
        {},
        nothing,
    ):
        asked: Any = {**messages("2 + 2?"), **given}
        app.invoke(asked, {"configurable": {"thread_id": "1"}})
    read = [(e.reference, e.category, e.contexts) for e in TraceReader(tmp_path)]
    first = ("4", "sums", {"agent-1": "a secret"})
    assert read == [first, first, (None, None, {})]
    assert ["a secret" in request.text for request in model.requests] == [True, True, False]


class Log(TypedDict):
    messages: Annotated[list[Any], operator.add]
    deliberation: Annotated[list[str], operator.add]


def test_a_parent_that_appends_takes_the_answer_through_a_wrapper() -> None:
    graph = team().compile()

    def ask(state: Log) -> dict[str, Any]:
        out = graph.invoke({"messages": state["messages"]})
        return {"messages": out["messages"][-1:], "deliberation": [out["deliberation"]["answer"]]}

    parent = StateGraph(Log)
    parent.add_node("team", ask)
    parent.add_edge(START, "team")
    app = parent.compile(checkpointer=InMemorySaver())
    for turn in (1, 2):
        out = app.invoke(messages(f"{turn}?"), {"configurable": {"thread_id": "1"}})  # type: ignore[arg-type]
        assert len(out["messages"]) == 2 * turn
        assert isinstance(out["messages"][-1], AIMessage)
        assert out["deliberation"] == ["4"] * turn


class WithOutcome(MessagesState):
    deliberation: dict[str, Any]


def test_a_parent_that_declares_the_outcome_gets_it() -> None:
    parent = StateGraph(WithOutcome)
    parent.add_node("team", team().compile())
    parent.add_edge(START, "team")
    out = parent.compile().invoke(messages("How many?"))  # type: ignore[arg-type]
    assert out["deliberation"]["stop_reason"] == "max_rounds"


class Desk(AgentState[Any]):
    """A supervisor's state with a key of the same name as a private one, and the outcome."""

    remaining_steps: int
    round: int
    deliberation: dict[str, Any]


def test_a_supervisor_with_a_state_of_its_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        workflow = create_supervisor(
            [team().compile(name="team")], model=boss("transfer_to_team"), state_schema=Desk
        )
    out = workflow.compile().invoke({**messages("How many?"), "round": 7})
    assert out["round"] == 7
    assert out["deliberation"]["votes"]


class Floor(SwarmState):
    turns: Annotated[int, operator.add]


def test_a_swarm_with_a_state_of_its_own_stays_with_the_team() -> None:
    handoff = create_handoff_tool(agent_name="team", description="Ask the team")
    front = create_agent(boss("transfer_to_team"), [handoff], name="front")
    workflow = create_swarm(
        [front, team().compile(name="team")], default_active_agent="front", state_schema=Floor
    )
    app, thread = workflow.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": 1}}
    out = app.invoke({**messages("How many?"), "turns": 7}, thread)  # type: ignore[arg-type]
    assert out["turns"] == 7
    assert out["active_agent"] == "team"  # it has no tools, so it hands over to nobody
    back = app.invoke({**messages("And now?"), "active_agent": "front"}, thread)  # type: ignore[arg-type]
    assert [m.name for m in back["messages"] if m.type == "ai"] == ["front", "team"] * 2


@dataclass
class Session:
    user: str


@dataclass
class Tenant:
    """What the agent's own graph declares: another class than its host's."""

    user: str = "nobody"


def test_the_context_and_store_of_a_parent_reach_agents_that_are_graphs() -> None:
    seen: list[tuple[str, Any]] = []

    def look(state: MessagesState, runtime: Runtime[Tenant]) -> dict[str, Any]:
        assert runtime.store is not None
        item = runtime.store.get(("facts",), "legs")
        seen.append((runtime.context.user, item and item.value))
        return {"messages": [AIMessage("Answer: 4")]}

    agent = StateGraph(MessagesState, context_schema=Tenant)
    agent.add_node("look", look)
    agent.add_edge(START, "look")
    parent = StateGraph(MessagesState, context_schema=Session)
    parent.add_node("team", create_deliberation([agent.compile()], critic=None).compile())
    parent.add_edge(START, "team")
    store = InMemoryStore()
    store.put(("facts",), "legs", {"dog": 4})
    app = parent.compile(store=store)
    for user in ("ada", "bo"):
        app.invoke(messages("Legs?"), context=Session(user))  # type: ignore[arg-type]
    assert seen == [("ada", {"dog": 4}), ("bo", {"dog": 4})]


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
