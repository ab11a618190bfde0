"""Agents that are more than a chat model, and teams of different ones."""

import threading
import time
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import PydanticToolsParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from pydantic import BaseModel

from mpdf_langgraph import Agent, MathAnswer, create_deliberation
from tests.integration.test_ways import Boss
from tests.support.scripted import Request, StatusError, says, totals

QUESTION = "How many apples are in the barn and in the cellar together?"
STOCK = {"barn": 30, "cellar": 12}


@tool
def count_apples(place: str) -> int:
    """Count the apples in a place."""
    return STOCK[place]


def counter(place: str) -> Boss:
    """Counts at its one place. It knows the sum once a peer has told of the other place."""

    def reply(request: Request) -> AIMessage | str:
        if request.messages[-1].type != "tool":
            call = {"name": "count_apples", "args": {"place": place}, "id": str(request.number)}
            return AIMessage("", tool_calls=[call])
        other = next(name for name in STOCK if name != place)
        asked = "\n".join(m.text for m in request.messages if m.type == "human")
        mine = int(request.last)
        if f"{other} holds {STOCK[other]}" in asked:
            return f"The {place} holds {mine}. Answer: {mine + STOCK[other]}"
        return f"The {place} holds {mine}, of the {other} I know nothing. Answer: {mine}"

    return Boss(reply=reply)


async def test_react_agents_with_tools_put_together_what_their_tools_tell() -> None:
    for apart in (False, True):
        models = [counter("barn"), counter("cellar")]
        team = [
            Agent(place, create_agent(model, [count_apples]))
            for place, model in zip(STOCK, models, strict=True)
        ]
        graph = create_deliberation(
            team, answer=MathAnswer(), critic=None, router="always-refine", max_rounds=2
        ).compile()
        given: Any = {"question": QUESTION}
        out = (await graph.ainvoke(given) if apart else graph.invoke(given))["deliberation"]
        assert out["answer"] == "42"
        assert out["stop_reason"] == "agreement"
        assert out["rounds"] == 1
        # Two calls of the model for every proposal and every refinement, each of them counted.
        assert {k: out["usage"]["total"][k] for k in totals(models)} == totals(models)
        assert out["usage"]["total"]["calls"] == 8


async def test_a_tool_that_fails_costs_an_agent_its_vote_and_nothing_else() -> None:
    @tool
    def broken(place: str) -> int:
        """Count the apples in a place."""
        raise OSError("the barn is on fire")

    broken.name = "count_apples"
    graph = create_deliberation(
        [Agent("burnt", create_agent(counter("barn"), [broken]), retries=0), says("Answer: 42")],
        answer=MathAnswer(),
        critic=None,
        max_rounds=0,
    ).compile()
    for out in (
        graph.invoke({"question": QUESTION})["deliberation"],
        (await graph.ainvoke({"question": QUESTION}))["deliberation"],
    ):
        assert out["votes"] == {"burnt": None, "agent-2": "42"}
        [failure] = out["failures"]
        assert "the barn is on fire" in failure


class Sum(BaseModel):
    """The answer in parts."""

    steps: str
    value: int


def sums(request: Request) -> AIMessage:
    args = {"steps": "30 + 12", "value": 42}
    return AIMessage("", tool_calls=[{"name": "Sum", "args": args, "id": str(request.number)}])


def in_words(found: Sum) -> str:
    return f"{found.steps}. Answer: {found.value}"


async def test_chains_and_agents_with_structured_output() -> None:
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Be exact."), MessagesPlaceholder("messages")]
    )
    models = [Boss(reply=sums), Boss(reply=sums)]
    chain = (
        prompt
        | models[0].bind_tools([Sum])
        | PydanticToolsParser(tools=[Sum], first_tool_only=True)
        | in_words
    )
    agent = (
        RunnableLambda(lambda messages: {"messages": messages})
        | create_agent(models[1], [], response_format=Sum)
        | (lambda state: in_words(state["structured_response"]) + " (agent)")
    )
    graph = create_deliberation(
        [Agent("chain", chain), Agent("agent", agent)], answer=MathAnswer(), critic="self"
    ).compile()
    for out in (graph.invoke({"question": QUESTION}), await graph.ainvoke({"question": QUESTION})):
        assert out["deliberation"]["votes"] == {"chain": "42", "agent": "42"}
        assert out["deliberation"]["usage"]["agents"]["chain"]["calls"] == 1
        assert out["deliberation"]["usage"]["agents"]["agent"]["calls"] == 1
    assert "Be exact." in models[0].requests[0].text


def unstructured(request: Request) -> str:
    return "I would rather talk."


def test_structured_output_that_does_not_come_is_a_failure_and_no_vote() -> None:
    chain = (
        Boss(reply=unstructured).bind_tools([Sum])
        | PydanticToolsParser(tools=[Sum], first_tool_only=True)
        | in_words
    )
    graph = create_deliberation(
        [Agent("chain", chain, retries=0), says("Answer: 42")],
        answer=MathAnswer(),
        critic=None,
        max_rounds=0,
    ).compile()
    out = graph.invoke({"question": QUESTION})["deliberation"]
    assert out["votes"] == {"chain": None, "agent-2": "42"}
    assert len(out["failures"]) == 1


async def test_a_team_of_different_samplings_one_slow_and_one_dead() -> None:
    hot, cool = says("Hot. Answer: 41"), says("Cool. Answer: 42")
    slow, dead = says("Slow. Answer: 42", delay=60.0), says(StatusError(401, "no such key"))
    hurry = says("Quick. Answer: 42")
    team = [
        Agent("hot", hot, sampling={"temperature": 1.3, "top_p": 0.9}),
        Agent("cool", cool, sampling={"temperature": 0.2}, refine_sampling={"temperature": 0.0}),
        Agent("slow", slow),
        Agent("dead", dead),
        Agent("chain", hurry | RunnableLambda(lambda message: message.text)),
    ]
    graph = create_deliberation(
        team, answer=MathAnswer(), critic=None, router="always-refine", timeout=5.0
    ).compile()
    started = time.monotonic()
    out = (await graph.ainvoke({"question": QUESTION}))["deliberation"]
    assert time.monotonic() - started < 30
    assert out["stop_reason"] == "timeout"
    assert out["votes"] == {"hot": "41", "cool": "42", "slow": None, "dead": None, "chain": "42"}
    assert out["answer"] == "42"
    failed = {failure.split("@")[0]: failure for failure in out["failures"]}
    assert "no such key" in failed["dead"]
    assert "cancelled at the time limit" in failed["slow"]
    assert len(dead.requests) == 1  # refused: there is no use in trying again
    assert [request.kwargs for request in hot.requests] == [{"temperature": 1.3, "top_p": 0.9}]
    assert [request.kwargs for request in cool.requests] == [{"temperature": 0.2}]


def test_all_agents_are_under_way_at_the_same_time() -> None:
    """Synchronously too: nobody answers before everybody has been asked."""
    names = ("ann", "bo", "cy", "di")
    everybody = threading.Barrier(len(names), timeout=10.0)

    def waiting(name: str) -> Any:
        def answer(messages: Any) -> str:
            everybody.wait()
            return f"{name} says so. Answer: 42"

        return RunnableLambda(answer)

    team = [Agent(name, waiting(name), retries=0) for name in names]
    graph = create_deliberation(team, answer=MathAnswer(), critic=None, max_rounds=0).compile()
    out = graph.invoke({"question": QUESTION})["deliberation"]
    assert out["votes"] == dict.fromkeys(names, "42")
