"""Several deliberations in one graph, side by side."""

import warnings
from typing import Annotated, Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import InvalidUpdateError
from langgraph.graph import START, MessagesState, StateGraph

from mpdf_langgraph import create_deliberation, merge_deliberations
from tests.support.running import ON
from tests.support.scripted import says

QUESTION = {"messages": [HumanMessage("What is 2 + 2?", id="q")]}


class Gathering(MessagesState):
    deliberation: Annotated[dict[str, Any], merge_deliberations]


class Plain(MessagesState):
    deliberation: dict[str, Any]


def parent(schema: Any, teams: dict[str, str], names: dict[str, str] | None = None) -> Any:
    """A graph in which teams answer at the same time. Each says the one thing it is given."""
    builder = StateGraph(schema)
    for team, answer in teams.items():
        name = (names or {}).get(team, team)
        graph = create_deliberation([says(answer, delay=0.02)], critic=None, name=name)
        builder.add_node(team, graph.compile())
        builder.add_edge(START, team)
    return builder


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_two_outcomes_and_two_messages(mode: str) -> None:
    app = parent(Gathering, {"poets": "five", "doctors": "four"}).compile(InMemorySaver())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for turn in (1, 2):  # the second turn's outcomes replace the first's
            given = QUESTION if turn == 1 else {"messages": ["And 3 + 1?"]}
            out = app.invoke(given, ON) if mode == "sync" else await app.ainvoke(given, ON)
            answers = {name: one["answer"] for name, one in out["deliberation"].items()}
            assert answers == {"poets": "five", "doctors": "four"}
            assert {m.name: m.content for m in out["messages"][-2:]} == answers
            assert len(out["messages"]) == 3 * turn
    assert len({one["episode"] for one in out["deliberation"].values()}) == 2


def test_without_the_reducer_the_graph_says_so() -> None:
    with pytest.raises(InvalidUpdateError, match="deliberation"):
        parent(Plain, {"poets": "five", "doctors": "four"}).compile().invoke(QUESTION)


def test_one_name_for_two_is_warned_of() -> None:
    names = {"poets": "team", "doctors": "team"}
    app = parent(Gathering, {"poets": "five", "doctors": "four"}, names).compile()
    with pytest.warns(RuntimeWarning, match="two deliberations named 'team'"):
        out = app.invoke(QUESTION)
    assert set(out["deliberation"]) == {"team"}


def test_a_gathering_inside_a_gathering() -> None:
    inner = parent(Gathering, {"poets": "five", "doctors": "four"}).compile()
    outer = parent(Gathering, {"judges": "six"})
    outer.add_node("others", inner)
    outer.add_edge(START, "others")
    out = outer.compile().invoke(QUESTION)
    answers = {name: one["answer"] for name, one in out["deliberation"].items()}
    assert answers == {"poets": "five", "doctors": "four", "judges": "six"}


def test_what_stands_alone_is_not_touched() -> None:
    assert merge_deliberations(None, None) == {}
    assert merge_deliberations({}, {}) == {}
    one = {"name": "team", "episode": "e", "started": 1.0, "seconds": 1.0}
    assert merge_deliberations(None, one) == {"team": one}
    assert merge_deliberations({"team": one}, one) == {"team": one}
