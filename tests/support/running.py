"""Graphs that are run once, on a thread whose state can be read, and Python run as a command."""

import os
import subprocess
import sys
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from mpdf_langgraph import Episode
from tests.support.paths import ROOT

ON: Any = {"configurable": {"thread_id": "1"}}


def final_state(builder: Any, given: Any) -> dict[str, Any]:
    """Run a graph's builder on one question. Return all channels, private ones too."""
    graph = builder.compile(checkpointer=InMemorySaver())
    graph.invoke(given, ON)
    values: dict[str, Any] = graph.get_state(ON).values
    return values


def record_of(builder: Any, given: Any) -> Episode:
    """Run a graph's builder on one question. Return the record that it makes."""
    return Episode.from_state(final_state(builder, given))


def asks_a_person(question: str = "May I answer?") -> Any:
    """An agent graph that asks a person, and answers what that says."""

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"With leave. Answer: {interrupt(question)}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    return builder.compile()


def run_python(*words: object, given: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments and changes of the environment."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT, input=given, env={"PYTHONPATH": str(ROOT), **os.environ, **changes},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
