"""Graphs that tests/integration/test_remote.py has a LangGraph server serve."""

import asyncio
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from mpdf_langgraph import create_deliberation
from tests.support.scripted import Request, Scripted, StatusError, says


def _one_node(node: Any, state: Any = MessagesState) -> Any:
    builder = StateGraph(state)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile()


def _counting(request: Request) -> str:
    """Say how many human messages were seen: more than asked, and a conversation has leaked."""
    humans = sum(message.type == "human" for message in request.messages)
    return f"{request.kind} of {len(request.messages)}. Answer: {humans}"


COUNTING = Scripted(reply=_counting, logprob=-0.1)


async def _count(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await COUNTING.ainvoke(state["messages"])]}


async def _wait(state: MessagesState) -> dict[str, Any]:
    await asyncio.sleep(60)
    return {"messages": [AIMessage("At last. Answer: 9")]}


def _break(state: MessagesState) -> dict[str, Any]:
    raise OSError("the disk there is full")


def _ask(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"Answer: {interrupt('May I?')}")]}


class _Other(TypedDict):
    question: str


counting = _one_node(_count)
slow = _one_node(_wait)
broken = _one_node(_break)
asking = _one_node(_ask)
silent = _one_node(lambda state: {}, _Other)


def _team(**options: Any) -> Any:
    voters = [says("Four. Answer: 4"), says("Five. Answer: 5"), says("Four. Answer: 4")]
    return create_deliberation(voters, critic=None, name="team", **options).compile()


team = _team(router="always-refine", max_rounds=1)
unsure = _team(router="always-persist", interrupt_when=lambda standing: True)
dead = create_deliberation([says(StatusError(401, "no such key"))], critic=None).compile()

GRAPHS = ("counting", "slow", "broken", "asking", "silent", "team", "unsure", "dead")
