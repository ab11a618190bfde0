"""Whole deliberations through the compiled graph, with scripted models."""

import asyncio
import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from mpdf_langgraph import (
    Agent,
    Calibration,
    MathAnswer,
    Prompts,
    TextAnswer,
    TraceReader,
    Unsure,
    create_deliberation,
)
from mpdf_langgraph.errors import ConfigurationError, DeliberationError
from mpdf_langgraph.nodes import consensus
from mpdf_langgraph.runtime import retries
from mpdf_langgraph.state import ACTIONS, DeliberationInput, DeliberationOutput
from tests.support.running import ON, final_state
from tests.support.scripted import Request, Scripted, StatusError, counted, says, totals, yes

Q = {"question": "What is 2 + 2?"}


def text(name: str, answer: str) -> str:
    """What an agent writes: no two write the same."""
    return f"{name} has thought. Answer: {answer}"


def models(*proposals: str, refine: Sequence[str] | None = None, **options: Any) -> list[Scripted]:
    """One model per proposal, and what each refines to (by default the proposal again)."""
    refined = refine or proposals
    return [
        says(text(f"m{i}", first), text(f"m{i} again", later), **options)
        for i, (first, later) in enumerate(zip(proposals, refined, strict=True))
    ]


def deliberate(team: Sequence[Any], given: Mapping[str, Any] = Q, **options: Any) -> dict[str, Any]:
    """The `deliberation` of one question, without a critic unless one is given."""
    graph = create_deliberation(team, **{"critic": None, **options}).compile()
    result: dict[str, Any] = graph.invoke(dict(given))["deliberation"]
    return result


def sure(confidences: Mapping[str, float]) -> Callable[[str, Any], float]:
    """A critic that knows the confidence of every answer."""
    return lambda _, response: confidences[response["answer"]]


def script(plan: Mapping[str, Sequence[str]]) -> Callable[[Sequence[Any]], list[str]]:
    """A router that lets each agent (in order) take its actions round by round."""
    rounds = zip(*plan.values(), strict=True)
    return lambda _: list(next(rounds))


# --- routers --------------------------------------------------------------------------------


def test_always_persist_is_the_plain_vote() -> None:
    team = models("4", "5", "4")
    result = deliberate(team, router="always-persist", consensus="majority")
    assert result["answer"] == "4"
    assert result["stop_reason"] == "all_persisted"
    assert result["rounds"] == 1
    assert result["support"] == pytest.approx(2 / 3)
    assert result["confidence"] is None
    assert [model.kinds() for model in team] == [["propose"]] * 3
    assert result["usage"]["total"]["calls"] == 3


@pytest.mark.parametrize("rounds", [1, 3])
def test_always_refine_is_a_classical_debate(rounds: int) -> None:
    team = models("4", "4", "4")
    result = deliberate(team, router="always-refine", stop_when_settled=False, max_rounds=rounds)
    assert [model.kinds() for model in team] == [["propose"] + ["refine"] * rounds] * 3
    assert (result["rounds"], result["stop_reason"]) == (rounds, "max_rounds")


def test_no_rounds_of_decisions() -> None:
    result = deliberate(models("4", "5", "5"), max_rounds=0, consensus="majority")
    assert (result["rounds"], result["answer"], result["actions"]) == (0, "5", [])
    assert result["stop_reason"] == "max_rounds"


def test_random_router_repeats_itself_for_an_episode_but_not_between_them() -> None:
    graph = create_deliberation(
        models("1", "2", "3"), router="random", critic=None, stop_when_settled=False
    ).compile()
    runs = [tuple(graph.invoke(Q)["deliberation"]["actions"]) for _ in range(12)]
    assert len(set(runs)) > 1
    assert {action.split(": ")[1] for run in runs for action in run} == set(ACTIONS)


def test_threshold_router_persists_concedes_and_refines() -> None:
    team = models("4", "5", "6", refine=["4", "4", "4"])
    critic = sure({"4": 0.95, "5": 0.5, "6": 0.93})
    result = deliberate(team, critic=critic, max_rounds=1, answer=MathAnswer())
    assert result["actions"] == ["agent-1@1: PERSIST", "agent-2@1: CONCEDE", "agent-3@1: PERSIST"]
    low = deliberate(models("4", "5"), critic=sure({"4": 0.3, "5": 0.4}), max_rounds=1)
    assert low["actions"] == ["agent-1@1: REFINE", "agent-2@1: REFINE"]


def test_callable_router_and_router_object_decide_from_the_observations() -> None:
    seen: list[Any] = []

    def by_name(observations: Sequence[Any]) -> list[str]:
        seen.extend(observations)
        return ["PERSIST", "REFINE", "CONCEDE"]

    class ByRow:
        name = "by-row"
        version = "7"

        def decide(self, observations: Any, masks: Any) -> list[list[float]]:
            assert [len(mask) for mask in masks] == [3, 3, 3]
            return [[1, 0, 0], [0, 1, 0], [0, 0, 1]]

    expected = ["agent-1@1: PERSIST", "agent-2@1: REFINE", "agent-3@1: CONCEDE"]
    for router in (by_name, ByRow()):
        result = deliberate(models("4", "5", "6"), router=router, max_rounds=1)
        assert result["actions"] == expected
    assert [len(observation["peers"]) for observation in seen] == [2, 2, 2]


def test_router_that_returns_nonsense_is_named() -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        deliberate(models("4", "5"), router=lambda _: ["nonsense", "PERSIST"])


@pytest.mark.parametrize(
    ("options", "says_what"),
    [
        ({"router": "treshold"}, "always-persist"),
        ({"critic": "selff"}, "self"),
        ({"consensus": "mean"}, "majority"),
        ({"answer": MathAnswer}, "MathAnswer"),
        ({"max_rounds": -1}, "max_rounds"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"explore": 0.5}, "1/3"),
        ({"alternatives": -1}, "alternatives"),
        ({"stop_when_settled": "no"}, "stop_when_settled must be True or False, got 'no'"),
        ({"stop_when_decided": 1}, "stop_when_decided must be True or False"),
        ({"settle_confidence": 0.5}, "critic"),
        ({"settle_confidence": 1.5, "critic": "self"}, r"\[0, 1\]"),
        (
            {"settle_confidence": 0.9, "critic": "self", "stop_when_settled": False},
            "settle_confidence .* leave it out, or stop_when_settled=False",
        ),
        ({"alternatives": 2, "max_rounds": 0}, "alternatives are drawn in rounds"),
        ({"explore": 0.1, "max_rounds": 0}, "explore is about decisions"),
        ({"calibration": Calibration({})}, "calibration needs a critic"),
        (
            {"stop_when_decided": True, "max_rounds": 0, "consensus": "majority"},
            'stop_when_decided leaves out nothing with max_rounds=0 and recruit="all"',
        ),
    ],
)
def test_wrong_options_fail_when_the_graph_is_built(
    options: dict[str, Any], says_what: str
) -> None:
    with pytest.raises(ConfigurationError, match=says_what):
        create_deliberation(models("4"), **{"critic": None, **options})


def test_options_that_have_an_effect_are_taken() -> None:
    deciding: dict[str, Any] = {"stop_when_decided": True, "consensus": "majority"}
    for options in (
        {"alternatives": 2, "max_rounds": 0, "interrupt_when": Unsure(support_below=0.5)},
        {"recruit": "adaptive", "max_rounds": 0, **deciding},
        {"max_rounds": 1, **deciding},
    ):
        built: Any = create_deliberation(models("4"), critic=None, **options)  # type: ignore[arg-type]
        graph = built.compile(checkpointer=InMemorySaver())
        out = graph.invoke({"question": "2 + 2?"}, {"configurable": {"thread_id": "1"}})
        assert out["deliberation"]["answer"] == "4"


def test_wrong_teams_fail_when_the_graph_is_built() -> None:
    for team in ([], models("4")[0], None):
        with pytest.raises(ConfigurationError, match="list"):
            create_deliberation(team)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="unique"):
        create_deliberation([*models("4"), Agent("agent-1", models("5")[0])])


# --- ways of running ------------------------------------------------------------------------

ONCE = re.compile(r"episode|started|seconds")


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if not ONCE.match(key)}


async def test_sync_and_async_give_the_same_outcome() -> None:
    def build() -> Any:
        team = models("4", "5", "6", refine=["5", "5", "6"], logprob=-0.3)
        plan = {"1": ["REFINE", "PERSIST"], "2": ["REFINE", "CONCEDE"], "3": ["PERSIST", "CONCEDE"]}
        return create_deliberation(
            team, router=script(plan), critic="logprob", max_rounds=2, stop_when_settled=False
        ).compile()

    synchronous = build().invoke(Q)
    asynchronous = await build().ainvoke(Q)
    assert comparable(synchronous["deliberation"]) == comparable(asynchronous["deliberation"])
    assert synchronous["messages"][-1].content == asynchronous["messages"][-1].content


async def test_events_tell_the_story_in_order() -> None:
    def build() -> Any:
        plan = {"1": ["PERSIST"], "2": ["REFINE"], "3": ["CONCEDE"]}
        return create_deliberation(
            models("4", "5", "6"),
            router=script(plan),
            critic=sure({"4": 0.9, "5": 0.5, "6": 0.4}),
            max_rounds=1,
        ).compile()

    events = list(build().stream(Q, stream_mode="custom"))
    lines = [event["text"] for event in events]
    assert [event["event"] for event in events] == (
        ["proposed"] * 3 + ["criticised"] * 3 + ["consensus"] + ["decided"] * 3
        + ["refined", "criticised", "consensus"]
    )  # fmt: skip
    assert set(lines[:3]) == {f"agent-{i} proposes {i + 3}" for i in (1, 2, 3)}
    assert "agent-1: confidence in 4 is 0.90" in lines[3:6]
    assert lines[6:] == [
        "the vote stands at 1 of 3 for 4",
        "agent-1 persists with 4",
        "agent-2 refines its answer",
        "agent-3 concedes to agent-1",
        "agent-2 now says 5",
        "agent-2: confidence in 5 is 0.50",
        "the vote stands at 2 of 3 for 4; stopped: max_rounds",
    ]
    assert len({event["episode"] for event in events}) == 1
    again = [event["text"] async for event in build().astream(Q, stream_mode="custom")]
    assert again[6:] == lines[6:]


_counter = itertools.count()


def echo(request: Request) -> str:
    """Answer with the number in the question. Fail if another one is in the prompt."""
    numbers = set(re.findall(r"number (\d+)", request.text))
    return f"{next(_counter)}. Answer: {' and '.join(sorted(numbers))}"


def crowd() -> Any:
    team = [Scripted(reply=echo, delay=0.002, logprob=-0.1) for _ in range(3)]
    return create_deliberation(
        team, router="always-refine", critic="logprob", stop_when_settled=False, max_rounds=2
    ).compile()


def check(number: int, result: dict[str, Any]) -> str:
    assert result["deliberation"]["votes"] == dict.fromkeys(
        ["agent-1", "agent-2", "agent-3"], str(number)
    )
    assert result["deliberation"]["usage"]["total"]["calls"] == 9
    assert result["messages"][-1].text.endswith(f"Answer: {number}")
    episode: str = result["deliberation"]["episode"]
    return episode


def questions(count: int) -> list[dict[str, Any]]:
    return [{"question": f"Say number {i}."} for i in range(count)]


async def test_a_hundred_deliberations_at_once_do_not_mix() -> None:
    graph = crowd()
    results = await asyncio.gather(*(graph.ainvoke(q) for q in questions(100)))
    assert len({check(i, result) for i, result in enumerate(results)}) == 100


def test_a_hundred_deliberations_in_threads_do_not_mix() -> None:
    graph = crowd()
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(graph.invoke, questions(100)))
    assert len({check(i, result) for i, result in enumerate(results)}) == 100


async def test_batch_and_abatch() -> None:
    graph = crowd()
    for i, result in enumerate(graph.batch(questions(5))):
        check(i, result)
    for i, result in enumerate(await graph.abatch(questions(5))):
        check(i, result)


# --- why it stops ---------------------------------------------------------------------------


def test_agreement_stops_before_any_decision() -> None:
    result = deliberate(models("4", "five", "4"), answer=MathAnswer(), max_rounds=3)
    assert result["stop_reason"] != "agreement"
    result = deliberate(models("4", "4.0", "4"), answer=MathAnswer(), max_rounds=3)
    assert (result["stop_reason"], result["rounds"]) == ("agreement", 0)


def test_agreement_waits_for_confidence_where_asked() -> None:
    options: dict[str, Any] = {"router": "always-refine", "max_rounds": 2}
    sceptic = sure({"4": 0.7})
    hasty = deliberate(models("4", "4"), critic=sceptic, settle_confidence=0.7, **options)
    careful = deliberate(models("4", "4"), critic=sceptic, settle_confidence=0.71, **options)
    assert (hasty["stop_reason"], hasty["rounds"]) == ("agreement", 0)
    assert (careful["stop_reason"], careful["rounds"]) == ("max_rounds", 2)


def test_agreement_without_known_confidence_does_not_settle() -> None:
    result = deliberate(
        models("4", "4"),
        critic=lambda *_: None,
        settle_confidence=0.1,
        router="always-persist",
    )
    assert result["stop_reason"] == "all_persisted"


def test_agents_without_an_answer_abstain_and_do_not_hold_up_agreement() -> None:
    team = [says("I do not know"), *models("4", "4")]
    result = deliberate(team, answer=MathAnswer())
    assert result["votes"] == {"agent-1": None, "agent-2": "4", "agent-3": "4"}
    assert (result["stop_reason"], result["support"]) == ("agreement", 1.0)


def test_nobody_has_an_answer() -> None:
    team = [says("I do not know"), says("Nor do I")]
    graph = create_deliberation(team, answer=MathAnswer(), critic=None, router="always-persist")
    result = graph.compile().invoke(Q)
    assert result["deliberation"]["answer"] is None
    assert result["deliberation"]["support"] == 0.0
    assert "no answer" in result["messages"][-1].text


# --- failures -------------------------------------------------------------------------------

BROKEN = StatusError(400, "bad request for api_key=hunter22222")


def test_agent_with_a_failed_proposal_refines_later_and_then_votes() -> None:
    late = says(BROKEN, "At last. Answer: 4")
    team = [Agent("late", late), *models("4", "5")]
    router = lambda _: ["REFINE", "PERSIST", "PERSIST"]  # noqa: E731
    result = deliberate(team, router=router, max_rounds=1, consensus="majority")
    assert late.kinds() == ["propose", "refine"]
    assert Prompts().no_response in late.requests[1].text
    assert result["votes"] == {"late": "4", "agent-2": "4", "agent-3": "5"}
    assert result["answer"] == "4"
    assert result["failures"] == ["late@0 propose: StatusError: bad request for api_key=***"]


def test_agent_with_a_failed_proposal_may_concede() -> None:
    team = [says(BROKEN), *models("4", "5")]
    router = lambda _: ["CONCEDE", "PERSIST", "PERSIST"]  # noqa: E731
    result = deliberate(team, router=router, critic=sure({"4": 0.2, "5": 0.8}), max_rounds=1)
    assert result["votes"] == {"agent-1": "5", "agent-2": "4", "agent-3": "5"}


@pytest.mark.parametrize("refined", [BROKEN, "I lost the thread"], ids=["failed", "unparsable"])
def test_useless_refine_keeps_the_response(refined: Any) -> None:
    team = [says("#### 4", refined), says("#### 5", "It is #### 5")]
    result = deliberate(
        team, answer=MathAnswer(), router="always-refine", max_rounds=1, stop_when_settled=False
    )
    assert result["votes"] == {"agent-1": "4", "agent-2": "5"}
    assert len(result["failures"]) == 1
    assert result["failures"][0].startswith("agent-1@1 refine: ")


def test_failed_critic_leaves_the_confidence_unknown() -> None:
    def critic(question: str, response: Any) -> float:
        raise RuntimeError("no idea")

    result = deliberate(models("4", "5"), critic=critic, router="always-persist")
    assert result["confidence"] is None
    assert [f.split(": ", 1)[1] for f in result["failures"]] == ["RuntimeError: no idea"] * 2


def test_all_proposals_failed_is_one_error_and_leaves_a_trace(tmp_path: Path) -> None:
    team = [says(BROKEN), says(StatusError(401, "who are you?"))]
    graph = create_deliberation(team, critic=None, traces=tmp_path).compile()
    with pytest.raises(DeliberationError, match=r"agent-1: .*bad request.*agent-2: .*who are you"):
        graph.invoke(Q)
    [episode] = TraceReader(tmp_path)
    assert episode.outcome["stop_reason"] == "failed"
    assert [failure["agent"] for failure in episode.failures] == ["agent-1", "agent-2"]
    assert episode.outcome["usage"]["total"]["calls"] == 2


def test_trace_that_cannot_be_stored_does_not_cost_the_answer(tmp_path: Path) -> None:
    class Full:
        def write_state(self, state: Any) -> None:
            raise OSError("no space left")

    with pytest.warns(Warning, match="no space left"):
        assert deliberate(models("4", "4"), traces=Full())["answer"] == "4"


def test_identical_proposals_warn() -> None:
    with pytest.warns(Warning, match="very same text"):
        deliberate([says("Answer: 4"), says("Answer: 4")])


def test_identical_refusals_do_not_warn() -> None:
    refusal = AIMessage("", response_metadata={"finish_reason": "content_filter"})
    assert deliberate([says(refusal), says(refusal)])["answer"] is None


# --- moves ----------------------------------------------------------------------------------


def test_two_agents_that_concede_to_each_other_swap() -> None:
    plan = {"1": ["CONCEDE", "CONCEDE"], "2": ["CONCEDE", "CONCEDE"]}
    graph = create_deliberation(
        models("4", "5"), router=script(plan), critic=None, max_rounds=2
    ).compile()
    events = list(graph.stream(Q, stream_mode="custom"))
    votes = [e["votes"] if "votes" in e else e["text"] for e in events if e["event"] == "decided"]
    assert votes == ["agent-1 concedes to agent-2", "agent-2 concedes to agent-1"] * 2
    once = create_deliberation(
        models("4", "5"), router=lambda _: ["CONCEDE"] * 2, critic=None, max_rounds=1
    ).compile()
    assert once.invoke(Q)["deliberation"]["votes"] == {"agent-1": "5", "agent-2": "4"}


def test_concede_adopts_the_strongest_answer_as_it_stood_at_the_decision() -> None:
    # The cluster of 5 has two weak backers (0.4 + 0.5 > 0.8). The surer one is adopted.
    team = models("4", "5", "5", "6", refine=["4", "5", "7", "6"])
    confidence = {"agent-1@0": 0.1, "agent-2@0": 0.4, "agent-3@0": 0.5, "agent-4@0": 0.8}
    builder = create_deliberation(
        team,
        router=lambda _: ["CONCEDE", "PERSIST", "REFINE", "PERSIST"],
        critic=lambda _, response: confidence.get(response["id"], 0.9),
        max_rounds=1,
    )
    state = final_state(builder, Q)
    votes = state["deliberation"]["votes"]
    assert votes == {"agent-1": "5", "agent-2": "5", "agent-3": "7", "agent-4": "6"}
    assert state["held"]["agent-1"] == "agent-3@0"
    assert state["turns"][0]["target"] == state["turns"][0]["after"] == "agent-3@0"


def test_concede_is_masked_without_another_answer() -> None:
    wish = lambda _: [[0, 0, 1]] * 3  # noqa: E731
    result = deliberate(models("4", "4", "4"), router=wish, max_rounds=1, stop_when_settled=False)
    assert result["actions"] == [f"agent-{i}@1: PERSIST" for i in (1, 2, 3)]


# --- prompts, contexts, sampling ------------------------------------------------------------


def test_contexts_are_private() -> None:
    team = models("4", "5", "6")
    contexts = {f"agent-{i}": f"secret-{i}" for i in (1, 2, 3)}
    deliberate(
        team,
        {**Q, "contexts": contexts},
        router="always-refine",
        critic="self",
        max_rounds=2,
        alternatives=1,
    )
    for i, model in enumerate(team, 1):
        assert set(model.kinds()) >= {"propose", "refine", "critique"}
        for request in model.requests:
            assert set(re.findall(r"secret-\d", request.text)) == {f"secret-{i}"}
            assert isinstance(request.messages[0], SystemMessage)


def test_context_callable_is_called_once_a_question() -> None:
    asked: list[str] = []

    def retrieve(question: str) -> str:
        asked.append(question)
        return "the retrieved page"

    [reader, other] = models("4", "5")
    team = [Agent("reader", reader, context=retrieve), Agent("other", other)]
    graph = create_deliberation(team, critic="self", router="always-refine", max_rounds=2).compile()
    graph.invoke(Q)
    assert asked == [Q["question"]]
    assert all("the retrieved page" in request.text for request in reader.requests)
    assert not any("retrieved" in request.text for request in other.requests)
    graph.invoke({"question": "And 3 + 3?", "contexts": {"reader": "given page"}})
    assert len(asked) == 1  # what the caller gives comes first
    assert "given page" in reader.requests[-1].text


async def test_context_callable_may_be_async() -> None:
    async def retrieve(question: str) -> str:
        await asyncio.sleep(0)
        return "the retrieved page"

    [reader] = models("4")
    graph = create_deliberation([Agent("reader", reader, context=retrieve)], critic=None).compile()
    await graph.ainvoke(Q)
    graph.invoke(Q)  # here in a running event loop
    for request in reader.requests:
        assert "the retrieved page" in request.text
    assert len(reader.requests) == 2


def test_failing_context_callable_is_a_failed_proposal() -> None:
    def retrieve(question: str) -> str:
        raise OSError("index is gone")

    [reader, other] = models("4", "5")
    team = [Agent("reader", reader, context=retrieve, retries=0), other]
    result = deliberate(team, router="always-persist")
    assert reader.requests == []
    assert result["votes"] == {"reader": None, "agent-2": "5"}
    assert result["failures"] == ["reader@0 context: OSError: index is gone"]


def test_a_context_that_is_there_in_the_second_try_is_counted() -> None:
    llm, lookups = says("note"), iter([OSError("busy"), None])

    def retrieve(question: str) -> str:
        llm.invoke(question)
        if error := next(lookups):
            raise error
        return "a note"

    reader = says("Answer: 4")
    team = [Agent("reader", reader, context=retrieve, retries=0), says("Answer: 5")]
    graph = create_deliberation(
        team, router="always-persist", critic=None, max_rounds=1, alternatives=1
    ).compile()
    usage = graph.invoke(Q)["deliberation"]["usage"]
    asked = totals([llm, reader, team[1]])  # type: ignore[list-item]
    assert usage["total"]["calls"] + usage["alternatives"]["calls"] == asked["calls"]


def test_a_question_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="question must be text, got 5"):
        deliberate([says("4")], {"question": 5})


def test_a_question_that_no_request_can_hold_is_mended() -> None:
    model = says("Answer: 4")
    deliberate([model], {"question": "caf\ud800 2 + 2?"})
    assert "caf? 2 + 2?" in model.requests[0].text


def test_unknown_name_in_contexts() -> None:
    with pytest.raises(ConfigurationError, match=r"contexts names bob, .*agent-1"):
        deliberate(models("4"), {**Q, "contexts": {"bob": "x"}})


def test_a_question_changes_no_option_budget_or_path(tmp_path: Path) -> None:
    question = '{"max_calls": 99, "traces": "../elsewhere"} ../../x {{own}} {peers} %s'
    given = {"question": question, "max_calls": 99, "traces": "../elsewhere", "options": {}}
    team = models("4", "5")
    out = deliberate(team, given, max_calls=2, traces=tmp_path / "a" / "traces")
    assert out["stop_reason"] == "max_calls"
    assert out["usage"]["total"]["calls"] == 2
    assert [question in model.requests[0].last for model in team] == [True, True]
    assert [path.parent for path in tmp_path.rglob("*.jsonl")] == [tmp_path / "a" / "traces"]


def test_nothing_asked() -> None:
    for given_ in ({}, {"question": "  "}, {"messages": [("ai", "hello")]}):
        with pytest.raises(ConfigurationError, match="nothing was asked"):
            deliberate(models("4"), given_)


def test_on_a_thread_nothing_new_is_nothing_asked() -> None:
    [model] = models("4")
    graph = create_deliberation([model], critic=None).compile(checkpointer=InMemorySaver())
    graph.invoke(Q, ON)
    for given_ in ({}, {"query": "And 3 + 3?"}, {"question": ""}, {"question": None}):
        with pytest.raises(ConfigurationError, match="nothing was asked"):
            graph.invoke(given_, ON)
    assert len(model.requests) == 1
    assert graph.invoke(Q, ON)["deliberation"]["answer"] == "4"
    assert len(model.requests) == 2


@pytest.mark.parametrize("as_message", [False, True])
def test_a_question_that_failed_is_no_part_of_the_next_one(as_message: bool) -> None:
    down = True

    def reply(_: Request) -> Any:
        return StatusError(400) if down else "Answer: 4"

    model = Scripted(reply=reply)
    graph = create_deliberation([model], critic=None).compile(checkpointer=InMemorySaver())
    for number in "12":
        with pytest.raises(DeliberationError):
            graph.invoke({"question": f"Lost {number}?"}, ON)
    down = False
    new = {"messages": [("user", "New?")]} if as_message else {"question": "New?"}
    for given_ in (new, {"question": "Newer?"}):
        out = graph.invoke(given_, ON)
    assert [m.text for m in out["messages"] if m.type == "human"] == [
        "Lost 1?", "Lost 2?", "New?", "Newer?",
    ]  # fmt: skip
    told = [m.text for m in model.requests[-1].messages]
    assert told[0] == "New?"
    assert not any("Lost" in m.text for request in model.requests[2:] for m in request.messages)
    assert "Newer?" in told[-1]
    assert "New?" not in told[-1].replace("Newer?", "")


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"timeout": 1e-9}, "timeout is 1e-09, and that time is over"),
        ({"max_tokens": 5}, r"max_tokens is 5, and its call may take \d+ tokens"),
        ({"max_cost": 5}, r"max_cost is 5, and its call may take \d+ tokens at the price 1"),
    ],
)
def test_a_budget_without_room_says_which_it_is(budget: dict[str, Any], reason: str) -> None:
    with pytest.raises(DeliberationError, match=reason):
        deliberate(models("4", "5"), Q, **budget)


def test_an_agent_that_the_calls_do_not_reach_says_so() -> None:
    out = deliberate(models("4", "5"), Q, max_calls=1)
    [failure] = out["failures"]
    assert failure.endswith("not started: max_calls is 1, and it takes 1 call(s) more")


def test_every_agent_may_bring_its_own_wording() -> None:
    terse = Prompts(
        propose="Q={question}", refine="Others: {peers} You: {own}", peer="<{response}>"
    )
    [mine, other] = models("4", "5")
    deliberate(
        [Agent("mine", mine, prompts=terse, system_prompt="Be terse."), other],
        router="always-refine",
        max_rounds=1,
    )
    assert [str(m.text) for m in mine.requests[1].messages] == [
        "Be terse.",
        "Q=What is 2 + 2?",
        text("m0", "4"),
        f"Others: <{text('m1', '5')}> You: {text('m0', '4')}",
    ]
    assert "Other participants" in other.requests[1].text


def test_proposals_are_hot_and_refinements_cool() -> None:
    hot, cold, plain = models("4", "5", "6", temperature=1.0)
    team = [
        Agent("hot", hot, sampling={"temperature": 1.2, "top_p": 0.9}),
        Agent("cold", cold, sampling={"temperature": 0.2}),
        Agent("plain", plain, refine_sampling={}),
    ]
    deliberate(team, router="always-refine", max_rounds=1)
    assert [request.kwargs for request in hot.requests] == [
        {"temperature": 1.2, "top_p": 0.9},
        {"temperature": 0.6, "top_p": 0.9},
    ]
    assert [request.kwargs["temperature"] for request in cold.requests] == [0.2, 0.2]
    assert [request.kwargs for request in plain.requests] == [{}, {}]


def test_refining_never_heats_a_bound_model() -> None:
    [model, other] = models("4", "5", temperature=1.0)
    team = [model.bind(temperature=0.1).bind(max_tokens=50), other]
    deliberate(team, router="always-refine", max_rounds=1)
    assert [request.kwargs["temperature"] for request in model.requests] == [0.1, 0.1]
    assert [request.kwargs["max_tokens"] for request in model.requests] == [50, 50]


# --- conversations --------------------------------------------------------------------------


def test_follow_up_sees_the_conversation_before_it() -> None:
    team = models("4", "5")
    messages = [("user", "Call me Ada."), ("ai", "Yes, Ada."), ("user", "What is 2 + 2?")]
    graph = create_deliberation(team, critic=None, router="always-persist", name="team").compile()
    out = graph.invoke({"messages": messages})
    first = team[0].requests[0].messages
    assert [m.type for m in first] == ["human", "ai", "human"]
    assert first[0].text == "Call me Ada."
    assert "What is 2 + 2?" in first[-1].text
    assert "Call me Ada" not in first[-1].text
    assert len(out["messages"]) == 4
    assert out["messages"][-1].name == "team"
    assert set(out) == {"messages", "deliberation"}


def test_the_last_human_message_is_the_question() -> None:
    team = models("4")
    graph = create_deliberation(team, critic=None).compile()
    graph.invoke({"messages": [HumanMessage("Old?"), HumanMessage("New?"), AIMessage("Hm.")]})
    assert "New?" in team[0].requests[0].last
    assert team[0].requests[0].last.startswith("Old?\n\nNew?")  # no template takes two in a row


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        {**Q, "reference": "4", "contexts": {"agent-1": "psst"}},
        {"messages": [("user", "What is 2 + 2?")], "reference": "4"},
    ],
)
def test_resumed_after_all_have_failed_it_asks_again(
    tmp_path: Path, nested: bool, given: Any
) -> None:
    down = True

    def reply(_: Request) -> Any:
        return StatusError(400) if down else f"Take {next(numbers)}. Answer: 4"

    numbers = itertools.count()
    team = [Scripted(reply=reply) for _ in range(2)]
    builder: Any = create_deliberation(team, critic=None, traces=tmp_path)
    if nested:
        outer = StateGraph(DeliberationInput, output_schema=DeliberationOutput)
        outer.add_node("team", builder.compile())
        outer.add_edge(START, "team")
        builder = outer
    graph = builder.compile(checkpointer=InMemorySaver())
    for ask in (given, None):
        with pytest.raises(DeliberationError, match="every agent's proposal failed"):
            graph.invoke(ask, ON)
    assert [len(model.requests) for model in team] == [2, 2]
    down = False
    out = graph.invoke(None, ON)
    assert out["deliberation"]["answer"] == "4"
    assert [m.type for m in out["messages"]][-2:] == ["human", "ai"]
    for model in team:
        first, last = model.requests[0], model.requests[-1]
        assert [m.text for m in first.messages] == [m.text for m in last.messages]
    assert {episode.reference for episode in TraceReader(tmp_path)} == {"4"}
    stops = [episode.outcome["stop_reason"] for episode in TraceReader(tmp_path)]
    assert stops == ["failed", "failed", "agreement"]


def test_a_reference_that_is_no_text_is_refused_before_anything_is_paid() -> None:
    team = models("4")
    with pytest.raises(ConfigurationError, match="reference must be text or None, got 5"):
        create_deliberation(team, critic=None).compile().invoke({"question": "?", "reference": 5})
    assert team[0].requests == []


def test_turns_on_one_thread(tmp_path: Path) -> None:
    model = Scripted(reply=echo)
    graph = create_deliberation(
        [model], critic=None, router="always-refine", max_rounds=1, stop_when_settled=False,
        traces=tmp_path,
    ).compile(checkpointer=InMemorySaver())  # fmt: skip
    graph.invoke(
        {"question": "Say number 1.", "reference": "1", "contexts": {"agent-1": "psst"}}, ON
    )
    out = graph.invoke({"messages": [("user", "Say another.")]}, ON)
    # The first turn is history now, and nothing else is left of it.
    assert [m.type for m in model.requests[-2].messages] == ["human", "ai", "human"]
    assert "psst" not in model.requests[-1].text
    assert out["deliberation"]["rounds"] == 1
    assert out["deliberation"]["usage"]["total"]["calls"] == 2
    assert [m.type for m in out["messages"]] == ["human", "ai", "human", "ai"]
    third = graph.invoke({"question": "Say number 3."}, ON)
    assert third["messages"][-2].text == "Say number 3."
    episodes = list(TraceReader(tmp_path))
    assert [e.question for e in episodes] == ["Say number 1.", "Say another.", "Say number 3."]
    assert [e.reference for e in episodes] == ["1", None, None]
    assert [e.contexts for e in episodes] == [{"agent-1": "psst"}, {}, {}]
    assert [len(e.history) for e in episodes] == [0, 2, 4]


def test_nothing_of_a_longer_question_is_left_in_a_shorter_one() -> None:
    actions = iter(["REFINE", "CONCEDE", "PERSIST"])
    team = [says("one. Answer: 4", ["five. Answer: 5", StatusError(400)]), *models("6")]
    graph = create_deliberation(
        team,
        router=lambda _: [next(actions), "REFINE"],
        critic=None,
        max_rounds=2,
        stop_when_settled=False,
    ).compile(checkpointer=InMemorySaver())
    graph.invoke({**Q, "contexts": {"agent-1": "a note"}}, ON)
    assert len(graph.get_state(ON).values["responses"]) == 5
    actions = iter(["REFINE", "PERSIST"])
    graph.invoke({"question": "And 3 + 3?"}, ON)
    first = graph.get_state(ON).values
    assert set(first["responses"]) == {"agent-1@0", "agent-2@0", "agent-2@1", "agent-2@2"}
    assert [f["round"] for f in first["failures"]] == [1]
    assert len(first["turns"]) == 4
    assert len(first["tallies"]) == 3
    actions = iter(["PERSIST", "PERSIST"])
    graph.invoke({"question": "And 4 + 4?"}, ON)
    second = graph.get_state(ON).values
    assert (second["failures"], second["notes"]) == ([], {})


@pytest.mark.parametrize("stop_before", ["critic", "consensus", "router", "agent"])
def test_new_question_after_an_unfinished_one(stop_before: str) -> None:
    graph = create_deliberation(
        [Scripted(reply=echo), Scripted(reply=echo)],
        critic=lambda question, response: 0.5,
        router="always-refine", max_rounds=2, stop_when_settled=False,
    ).compile(checkpointer=InMemorySaver())  # fmt: skip
    graph.invoke({"question": "Say number 1."}, ON, interrupt_before=[stop_before])
    if stop_before == "router":
        graph.invoke(None, ON, interrupt_before=["router"])
    unfinished = graph.get_state(ON)
    assert unfinished.next
    out = graph.invoke({"messages": [("user", "Now answer anew: number 1.")]}, ON)
    assert out["deliberation"]["rounds"] == 2
    assert out["deliberation"]["usage"]["total"]["calls"] == 6
    assert out["deliberation"]["votes"] == {"agent-1": "1", "agent-2": "1"}
    header = graph.get_state(ON).values["header"]
    assert header["question"] == "Now answer anew: number 1."
    assert header["id"] != unfinished.values.get("header", {}).get("id")


@pytest.mark.parametrize("critic", [None, "logprob", lambda question, response: 0.5])
def test_only_a_critic_that_asks_somebody_is_a_step(critic: Any) -> None:
    team = [says(f"Answer: {n}", logprob=-n / 10) for n in (1, 2)] + [says(StatusError(400))]
    graph = create_deliberation(
        team, critic=critic, router="always-persist", consensus="majority", max_rounds=1
    ).compile()
    updates = [update for step in graph.stream({"question": "?"}) for update in step.items()]
    asks = callable(critic)
    proposals = ["router", *["agent"] * 3, *(["critic"] * 3 if asks else []), "consensus"]
    assert [name for name, _ in updates] == [*proposals, "router", "consensus"]
    drawn = {edge.target for edge in graph.get_graph().edges if edge.source == "agent"}
    assert drawn == {"critic" if asks else "consensus"}
    where = "critic" if asks else "agent"
    responses = [r for name, u in updates if name == where for r in u["responses"].values()]
    judged = [r["critique"] and r["critique"]["source"] for r in responses]
    assert judged == (
        [None, None] if critic is None else ["logprob" if not asks else "<lambda>"] * 2
    )


def test_an_interrupted_question_goes_on_where_it_stood() -> None:
    model = Scripted(reply=echo)
    graph = create_deliberation(
        [model], critic=None, router="always-refine", max_rounds=2, stop_when_settled=False
    ).compile(checkpointer=InMemorySaver())
    graph.invoke({"question": "Say number 1."}, ON, interrupt_before=["consensus"])
    while graph.get_state(ON).next:
        out = graph.invoke(None, ON, interrupt_before=["consensus"])
    assert out["deliberation"]["rounds"] == 2
    assert model.kinds() == ["propose", "refine", "refine"]


# --- usage ----------------------------------------------------------------------------------


async def test_usage_adds_up_to_what_was_served() -> None:
    first = says(text("a", "4"), critique=yes(0.9), fail={1: StatusError(503)})
    second = says([AIMessage(""), text("b", "5")], critique=[StatusError(400), yes(0.2)])
    third = says(text("c", "6"), [StatusError(400), text("c", "6")], critique=yes(0.5))
    team = [first, second, third]
    graph = create_deliberation(
        team, router="always-refine", critic="self", max_rounds=2, stop_when_settled=False
    ).compile()
    usage = (await graph.ainvoke(Q))["deliberation"]["usage"]
    served = totals(team)
    assert counted(usage["total"]) == served
    assert usage["total"]["tokens"] == served["prompt_tokens"] + served["completion_tokens"]

    def summed(parts: Any) -> dict[str, int]:
        return {key: sum(part[key] for part in parts) for key in served}

    assert summed([*usage["agents"].values(), usage["critic"]]) == served
    assert summed(usage["rounds"]) == served
    assert usage["critic"]["calls"] == sum(m.kinds().count("critique") for m in team)
    assert usage["overshoot_tokens"] == 0


def test_usage_of_a_context_callable_that_asks_a_model_is_counted() -> None:
    summariser = says("a summary of the notes")
    [reader] = models("4")
    agent = Agent("reader", reader, context=lambda q: summariser.invoke(q).text)
    usage = deliberate([agent])["usage"]
    served = totals([summariser, reader])
    assert counted(usage["total"]) == served


def test_endpoint_without_usage_is_reported() -> None:
    result = deliberate(models("4", "5", reports_usage=False), router="always-persist")
    assert result["usage"]["total"]["calls"] == 2
    assert result["usage"]["total"]["unreported"] == 2


# --- exploration ----------------------------------------------------------------------------


def test_alternatives_do_not_change_the_course() -> None:
    def run(alternatives: int) -> tuple[dict[str, Any], list[Scripted], dict[str, Any]]:
        def reply(request: Request) -> Any:
            if request.kind == "critique":
                return yes(0.4)
            mine = "456"[names.index(request.kwargs["seed"])]
            return f"{request.kwargs['seed']} {request.kind} Answer: {mine}"

        names = ["a", "b", "c"]
        team = [Scripted(reply=reply) for _ in names]
        agents = [
            Agent(name, model, sampling={"seed": name})
            for name, model in zip(names, team, strict=True)
        ]
        plan = {
            "a": ["PERSIST", "REFINE"], "b": ["REFINE", "CONCEDE"], "c": ["CONCEDE", "PERSIST"]
        }  # fmt: skip
        builder = create_deliberation(
            agents, router=script(plan), critic="self", max_rounds=2, alternatives=alternatives
        )
        state = final_state(builder, Q)
        return state["deliberation"], team, state

    plain, plain_team, _ = run(0)
    explored, team, state = run(2)
    usage, extra = explored.pop("usage"), totals(team)
    assert comparable({**plain, "usage": 0}) == comparable({**explored, "usage": 0})
    assert counted(usage["total"]) == totals(plain_team)
    alternatives = [r for r in state["responses"].values() if "+" in r["id"]]
    assert [len(turn["alternatives"]) for turn in state["turns"]] == [2] * 6
    assert {i for turn in state["turns"] for i in turn["alternatives"]} == {
        r["id"] for r in alternatives
    }
    assert all(r["critique"]["confidence"] == pytest.approx(0.4) for r in alternatives)
    assert all(r["cluster"] is not None for r in alternatives)
    assert not any("+" in (held or "") for held in state["held"].values())
    assert {k: usage["total"][k] + usage["alternatives"][k] for k in extra} == extra


def test_exploration_floors_every_allowed_action() -> None:
    graph = create_deliberation(
        models("4", "5", "4"), router="always-persist", critic=None, explore=0.1, max_rounds=1
    ).compile(checkpointer=InMemorySaver())
    taken = set()
    for i in range(40):
        config = {"configurable": {"thread_id": str(i)}}
        taken |= {a[-7:] for a in graph.invoke(Q, config)["deliberation"]["actions"]}
        for turn in graph.get_state(config).values["turns"]:
            assert turn["probabilities"] == pytest.approx([0.8, 0.1, 0.1])
    assert taken == {"PERSIST", " REFINE", "CONCEDE"}


# --- budgets --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:all . agents proposed")
@settings(max_examples=60)
@given(seed=st.integers(0, 10**9))
def test_budgets_are_hard(seed: int) -> None:
    draw = random.Random(seed)
    limit = draw.randint(1, 40)

    def reply(request: Request) -> Any:
        if request.kind == "json":
            return '{"probability": 0.5}' if draw.random() < 0.5 else "no"
        if request.kind == "critique":
            return draw.choice([yes(draw.random()), "yes", StatusError(400), StatusError(404)])
        if draw.random() < 0.2:
            return draw.choice([StatusError(400), StatusError(503), AIMessage("")])
        return f"{draw.random()} {'é' * draw.randint(0, 200)} Answer: {draw.randint(0, 3)}"

    team = [
        Agent(
            f"a{i}",
            Scripted(reply=reply, model_name=f"m{i % 2}", bytes_per_token=1 + 3 * (i % 2)),
            sampling={"max_tokens": limit},
            retries=draw.randint(0, 2),
        )
        for i in range(draw.randint(1, 4))
    ]
    max_calls = draw.choice([None, draw.randint(1, 30)])
    max_tokens = draw.choice([None, draw.randint(200, 6000)])
    graph = create_deliberation(
        team,
        router=draw.choice(["always-refine", "random", "threshold"]),
        critic=draw.choice([None, "self", "self+logprob", "logprob"]),
        max_rounds=draw.randint(0, 4),
        max_calls=max_calls,
        max_tokens=max_tokens,
        stop_when_settled=draw.random() < 0.5,
    ).compile()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(retries, "LONGEST_PAUSE", 0.0)
        try:
            usage = graph.invoke(Q)["deliberation"]["usage"]
        except DeliberationError:
            usage = None
    served = totals([agent.runnable for agent in team])  # type: ignore[misc]
    if usage is not None:
        assert counted(usage["total"]) == served
        assert usage["overshoot_tokens"] == 0
    assert max_calls is None or served["calls"] <= max_calls
    assert max_tokens is None or served["prompt_tokens"] + served["completion_tokens"] <= max_tokens


@pytest.mark.filterwarnings("ignore:all . agents proposed")
@pytest.mark.parametrize("refine", ["Check it again: {question}", "Others: {peers} Check: {own}"])
def test_a_text_that_all_hold_does_not_void_the_budget(refine: str) -> None:
    """Bounds are lowered for what stands in a prompt, as often as it stands there."""
    llm = Scripted(reply=lambda _: "word " * 100 + "Answer: 4", model_name="m")
    prompts = Prompts(refine=refine)
    team = [Agent(n, llm, prompts=prompts, sampling={"max_tokens": 600}) for n in "abcdef"]
    options: dict[str, Any] = {"router": "always-refine", "stop_when_settled": False}
    usage = deliberate(team, max_tokens=12_000, max_rounds=20, **options)["usage"]
    assert usage["overshoot_tokens"] == 0
    assert usage["total"]["tokens"] <= 12_000


def test_spent_budget_says_so() -> None:
    options: dict[str, Any] = {"router": "always-refine", "stop_when_settled": False}
    result = deliberate(models("4", "5"), max_calls=3, **options)
    assert (result["stop_reason"], result["usage"]["total"]["calls"]) == ("max_calls", 3)
    team = models("4", "5", max_tokens=20)
    result = deliberate(team, max_tokens=600, max_rounds=50, **options)
    assert result["stop_reason"] == "max_tokens"
    assert result["usage"]["total"]["tokens"] <= 600


def test_retries_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.0)
    down = Agent("down", says(StatusError(503)), retries=9)
    result = deliberate([down, *models("4")], max_calls=6, router="always-persist")
    assert len(down.runnable.served) == 3  # type: ignore[attr-defined]
    assert result["usage"]["total"]["calls"] == 4


def test_budget_for_some_of_the_proposals() -> None:
    team = models("4", "5", "6")
    result = deliberate(team, max_calls=2, router="always-persist")
    assert [len(model.requests) for model in team] == [1, 1, 0]
    assert "max_calls" in result["failures"][0]
    with pytest.raises(DeliberationError, match="max_tokens is 10"):
        deliberate(models("4", max_tokens=20), max_tokens=10)


def test_overshoot_that_could_not_be_known_is_reported() -> None:
    long = [says(text(f"m{i}", f"{i} " + "very " * 400)) for i in (4, 5)]
    result = deliberate(long, max_tokens=400, router="always-refine")
    spent = result["usage"]["total"]["tokens"]
    assert spent > 400
    assert result["usage"]["overshoot_tokens"] == spent - 400
    assert result["stop_reason"] == "max_tokens"
    assert [model.kinds() for model in long] == [["propose"]] * 2


async def test_timeout_cancels_calls_under_way() -> None:
    quick, slow = says("Answer: 4"), says("Answer: 5", delay=60.0)
    graph = create_deliberation([quick, slow], critic=None, timeout=5.0).compile()
    began = time.monotonic()
    result = (await graph.ainvoke(Q))["deliberation"]
    assert result["votes"] == {"agent-1": "4", "agent-2": None}
    assert "time limit" in result["failures"][0]
    with pytest.raises(DeliberationError, match="time limit"):
        await create_deliberation([slow], critic=None, timeout=0.2).compile().ainvoke(Q)
    assert time.monotonic() - began < 30


async def test_timeout_ends_a_debate(jump: Callable[[float], None]) -> None:
    def slow(request: Request) -> str:
        jump(10.0)
        return text(f"a{request.number}", "4")

    team = [Scripted(reply=slow), says(text("c", "5"))]
    graph = create_deliberation(
        team, critic=None, timeout=55, router="always-refine", max_rounds=1000
    ).compile()
    for run in (graph.ainvoke, partial(asyncio.to_thread, graph.invoke)):
        result = (await run(Q))["deliberation"]
        assert (result["stop_reason"], result["rounds"]) == ("timeout", 5)
        assert result["votes"] == {"agent-1": "4", "agent-2": "5"}


def test_where_answers_cannot_be_compared_only_equal_text_agrees_and_it_is_told() -> None:
    class Broken(TextAnswer):
        def equivalent(self, a: str, b: str) -> bool:
            raise RuntimeError("no sandbox")

    team = [says(f"a {sign} b") for sign in "-*/"] + [says("a  - b")]
    with pytest.warns(RuntimeWarning, match="written alike"):
        result = deliberate(team, critic=None, answer=Broken(), max_rounds=0)
    assert result["stop_reason"] == "max_rounds"
    assert result["support"] == 0.5
    assert result["answer"] == "a - b"
    [failure] = result["failures"]
    assert failure.startswith("consensus@0 compare: ")
    assert "no sandbox" in failure


@pytest.mark.filterwarnings("ignore:only answers that are written alike:RuntimeWarning")
async def test_no_comparison_starts_after_the_time_limit(jump: Callable[[float], None]) -> None:
    asked = []

    def judge(a: str, b: str) -> bool:
        asked.append({a, b})
        jump(40)
        return False

    team = [says(f"Answer: {i}") for i in range(5)]
    graph = create_deliberation(team, critic=None, answer=TextAnswer(judge), timeout=60)
    result = (await graph.compile().ainvoke(Q))["deliberation"]
    assert result["stop_reason"] == "timeout"
    assert "time limit" in result["failures"][-1]
    assert asked == [{"0", "1"}] * 2  # the one comparison under way asks in both orders


async def test_a_comparison_under_way_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consensus, "COMPARISON_SECONDS", 0.3)
    over = threading.Event()
    team = [says(f"Answer: {i}") for i in range(2)]
    judge = TextAnswer(lambda a, b: over.wait(60))
    graph = create_deliberation(team, critic=None, answer=judge, timeout=5.0)
    with pytest.warns(RuntimeWarning, match="only answers that are written alike"):
        result = (await graph.compile().ainvoke(Q))["deliberation"]
    over.set()
    assert result["stop_reason"] == "timeout"
    assert result["seconds"] < 30


async def test_hung_models_without_an_asynchronous_side_hold_up_nobody_else(tmp_path: Path) -> None:
    """asyncio has few threads for them: what a deliberation itself has to do needs none."""
    over = threading.Event()

    numbers = itertools.count()

    async def quick(_: Any) -> str:
        return f"Take {next(numbers)}. Answer: 4"

    hung = [Agent(f"hung-{i}", RunnableLambda(lambda _: str(over.wait(60)))) for i in range(40)]
    swift = [Agent(f"swift-{i}", RunnableLambda(lambda _: "", quick)) for i in range(2)]
    options: dict[str, Any] = {"critic": None, "max_rounds": 1, "timeout": 5.0, "traces": tmp_path}
    stuck = create_deliberation([*hung, *swift], **options).compile()
    other = create_deliberation(swift, answer=MathAnswer(), **options).compile()
    task = asyncio.create_task(stuck.ainvoke(Q))
    try:
        await asyncio.sleep(0.5)
        beside = (await asyncio.wait_for(other.ainvoke(Q), 30))["deliberation"]
        late = (await asyncio.wait_for(task, 30))["deliberation"]
    finally:
        over.set()
    assert (beside["stop_reason"], beside["failures"]) == ("agreement", [])
    assert (late["stop_reason"], late["answer"]) == ("timeout", "4")
    assert not any("compare" in failure for failure in late["failures"])
    assert len(list(TraceReader(tmp_path))) == 2


async def test_a_deliberation_needs_no_thread_of_asyncio() -> None:
    """The reason for every node's asynchronous side, the router's included."""
    over = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    loop.run_in_executor(None, over.wait)  # as a hung model without an asynchronous side does
    plain = StateGraph(DeliberationOutput)
    plain.add_node("node", lambda state: {"messages": []})
    plain.add_edge(START, "node")
    waiting = asyncio.create_task(plain.compile().ainvoke({"messages": []}))
    graph = create_deliberation(
        models("4", "5"), router="threshold", critic=None, max_rounds=1
    ).compile()
    try:
        result = (await asyncio.wait_for(graph.ainvoke(Q), 60))["deliberation"]
        assert not waiting.done()  # a graph with a synchronous node waits for the thread
    finally:
        over.set()
    await waiting
    assert result["rounds"] == 1
    assert result["failures"] == []


async def test_pauses_between_retries_respect_the_timeout() -> None:
    down = Agent("down", says(StatusError(503)), retries=50)
    graph = create_deliberation([down], critic=None, timeout=1.0).compile()
    for run in (graph.ainvoke, partial(asyncio.to_thread, graph.invoke)):
        began = time.monotonic()
        with pytest.raises(DeliberationError, match="503"):
            await run(Q)
        assert time.monotonic() - began < 30  # fifty pauses take minutes


async def test_alternatives_respect_the_timeout() -> None:
    first, second = (says(text(name, name)) for name in "45")
    graph = create_deliberation(
        [first, second], critic=None, timeout=5.0, router="always-persist", alternatives=1
    ).compile()
    stream = graph.astream(Q, stream_mode="custom")
    async for event in stream:
        if event["event"] == "proposed":
            first.delay = second.delay = 60.0
            began = time.monotonic()
    assert time.monotonic() - began < 30


def test_the_messages_for_wrong_parts_name_all_that_there_are() -> None:
    for options, named in (
        ({"router": "best"}, r"load_router\(folder\), load_expected_gain\(folder\)"),
        ({"critic": "best"}, r"load_profile_critic\(folder\)"),
        ({"answer": "best"}, r"CodeAnswer\(\), StructuredAnswer\(schema\)"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            create_deliberation([says("4")], **options)  # type: ignore[arg-type]
