"""The outcome: what it cost adds up, and the message is the winner's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph.consensus import confidence_weighted, count_votes
from mpdf_langgraph.nodes.outcome import (
    NO_ANSWER,
    describe_outcome,
    final_message,
    merge_deliberations,
    usage_summary,
)
from mpdf_langgraph.state import Usage, add_usage, no_usage, tokens
from tests.support.records import critique, failure, response, state, usage, usages

ROUNDS = 2
STAGES = ["context", "propose", "refine", "critique", "alternative"]


@st.composite
def spendings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the channels of a deliberation of a and b over two rounds, some calls failed."""
    responses = {}
    for agent in "ab":
        for round_ in range(ROUNDS + 1):
            for suffix in ("", "+1") if round_ else ("",):
                if draw(st.booleans()):
                    told = response(
                        agent, round_=round_, id=f"{agent}@{round_}{suffix}", usage=draw(usages)
                    )
                    if draw(st.booleans()):
                        told["critique"] = critique(0.5, cost=draw(usages))
                    responses[told["id"]] = told
    failed = st.builds(
        failure, st.sampled_from("ab"), st.sampled_from(STAGES), usages, st.integers(0, ROUNDS)
    )
    failures = draw(st.lists(failed, max_size=4))
    return {
        "responses": responses,
        "failures": failures,
        "round": ROUNDS,
        "judge_usage": draw(usages),
    }


@given(spendings())
def test_the_parts_add_up(channels: dict[str, Any]) -> None:
    summary = usage_summary(state(**channels))
    total = {key: value for key, value in summary["total"].items() if key != "tokens"}
    agents: list[Usage] = list(summary["agents"].values())
    assert add_usage(*agents, summary["critic"], summary["judge"]) == total
    assert add_usage(*summary["rounds"], summary["judge"]) == total
    assert len(summary["rounds"]) == ROUNDS + 1
    assert list(summary["agents"]) == ["a", "b"]
    assert summary["total"]["tokens"] == tokens(summary["total"])


@given(spendings())
def test_alternatives_are_counted_apart(channels: dict[str, Any]) -> None:
    summary = usage_summary(state(**channels))
    followed = {i: r for i, r in channels["responses"].items() if "+" not in i}
    survived = [f for f in channels["failures"] if f["stage"] != "alternative"]
    without = usage_summary(state(**{**channels, "responses": followed, "failures": survived}))
    assert without["alternatives"] == no_usage()
    assert {**summary, "alternatives": no_usage()} == without
    every = [r["usage"] for r in channels["responses"].values()]
    every += [r["critique"]["usage"] for r in channels["responses"].values() if r["critique"]]
    every += [f["usage"] for f in channels["failures"]]
    total = add_usage(*every, channels["judge_usage"])
    assert tokens(total) == summary["total"]["tokens"] + tokens(summary["alternatives"])


@pytest.mark.parametrize(
    ("limit", "overshoot"), [(None, 0), (200, 0), (150, 0), (149, 1), (100, 50)]
)
def test_overshoot(limit: int | None, overshoot: int) -> None:
    told = state(
        responses={
            "a@0": response("a", usage=usage(1, 100, 40)),
            "a@1+1": response("a", id="a@1+1", usage=usage(1, 999, 9)),
        },
        judge_usage=usage(1, 8, 2),
    )
    told["header"]["options"] |= {"max_tokens": limit, "max_calls": None}
    assert usage_summary(told)["overshoot_tokens"] == overshoot


def finished(*, answered: bool) -> Any:
    a = response("a", 0 if answered else None, 0.4)
    b = response("b", 1 if answered else None, 0.8, text="so #### 7", answer="7")
    held = {"a": a, "b": b}
    tally = count_votes(held, confidence_weighted, ["5", "7"])
    turn = {"agent": "a", "round": 1, "action": "PERSIST"}
    return state(
        responses={"a@0": a, "b@0": b},
        representatives=["5", "7"],
        held={"a": "a@0", "b": "b@0"},
        tallies=[tally],
        turns=[turn],
        failures=[failure("a", "refine", no_usage(), 1)],
    )


def test_outcome_with_an_answer() -> None:
    outcome = describe_outcome(finished(answered=True), "max_rounds")
    expected = {
        "episode": "e1",
        "answer": "7",
        "confidence": 0.8,
        "support": 0.5,
        "tie": False,
        "votes": {"a": "5", "b": "7"},
        "agent": "b",
        "rounds": 1,
        "actions": ["a@1: PERSIST"],
        "stop_reason": "max_rounds",
        "failures": ["a@1 refine: e"],
    }
    assert {key: outcome[key] for key in expected} == expected
    assert outcome["seconds"] > 0
    message = final_message(finished(answered=True))
    assert (message.text, message.name, message.id) == (
        "so #### 7",
        "deliberation",
        "deliberation-e1",
    )
    assert message.usage_metadata is None  # the agents' calls have reported theirs


def test_several_outcomes_are_told_apart_by_name() -> None:
    outcome = describe_outcome(finished(answered=True), "max_rounds")
    assert merge_deliberations({}, outcome) == {"deliberation": outcome}
    named = {"episode": {**outcome, "name": "episode"}}
    assert merge_deliberations(named, outcome) == {**named, "deliberation": outcome}
    assert merge_deliberations({}, named) == named


def test_outcome_without_an_answer() -> None:
    told = finished(answered=False)
    outcome = describe_outcome(told, "all_persisted")
    absent = {key: outcome[key] for key in ("answer", "confidence", "agent", "support")}
    assert absent == {"answer": None, "confidence": None, "agent": None, "support": 0.0}
    assert outcome["votes"] == {"a": None, "b": None}
    assert final_message(told).text == NO_ANSWER


def test_calls_beyond_the_budget_are_reported() -> None:
    told = state(responses={"a@0": response("a", usage=usage(5, 100, 40, estimated=30))})
    told["header"]["options"] |= {"max_calls": 2, "max_tokens": 150}
    summary = usage_summary(told)
    assert summary["overshoot_calls"] == 3
    assert summary["overshoot_tokens"] == 20
