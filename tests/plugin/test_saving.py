"""Calls that cannot change the answer are not made, and the answer stays the same."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver

from mpdf_langgraph import (
    AdaptiveRecruiting,
    Agent,
    ConfigurationError,
    Episode,
    MathAnswer,
    Unsure,
    create_deliberation,
    force_actions,
)
from mpdf_langgraph.answers.structured_answer import StructuredAnswer
from mpdf_langgraph.consensus import LogOdds, Vote, confidence_weighted, is_decided, majority
from mpdf_langgraph.observation import feature
from mpdf_langgraph.router import ThresholdRouter
from mpdf_langgraph.state import ACTIONS
from mpdf_langgraph.traces.view.page import write_page
from mpdf_langgraph.traces.writer import TraceWriter
from tests.support.records import unit
from tests.support.scripted import Scripted, StatusError, says, totals, yes

Q = {"question": "2+2?"}
RULES = {"majority": majority, "confidence": confidence_weighted}

# --- the rule -------------------------------------------------------------------------------

clusters = st.none() | st.integers(0, 3)
confidences = st.none() | st.sampled_from([0.0, 0.1, 0.5, 1.0]) | unit
ballots = st.lists(st.tuples(clusters, confidences), max_size=6)


@settings(max_examples=500)
@pytest.mark.parametrize("rule", RULES.values())
@given(ballots, ballots, st.booleans(), st.randoms())
def test_no_further_vote_overturns_what_is_decided(
    rule: Any, fixed: Any, further: Any, criticised: bool, random: Any
) -> None:
    fixed, further = (
        [(cluster, confidence if criticised else None) for cluster, confidence in votes]
        for votes in (fixed, further)
    )
    first = [Vote(f"f{n}", *vote) for n, vote in enumerate(fixed)]
    rest = [Vote(f"r{n}", *vote) for n, vote in enumerate(further)]
    if not is_decided(first, len(rest), rule, criticised=criticised):
        return
    votes = [*first, *rest]
    random.shuffle(votes)  # whose place in the team is whose
    assert rule(votes) == rule(first) is not None


@pytest.mark.parametrize("rule", RULES.values())
@given(st.lists(st.tuples(st.integers(0, 3), unit), min_size=1, max_size=6), st.integers(0, 4))
def test_what_is_not_decided_can_still_be_a_tie_or_another_answer(
    rule: Any, fixed: Any, open_votes: int
) -> None:
    votes = [Vote(f"f{n}", *vote) for n, vote in enumerate(fixed)]
    if is_decided(votes, open_votes, rule):
        return
    winner = rule(votes)

    def weight(cluster: int, of: list[Vote]) -> float:
        return sum(
            1.0 if rule is majority else v.confidence or 0.0 for v in of if v.cluster == cluster
        )

    most = 0.0
    for cluster in {4, *(vote.cluster for vote in votes)} - {winner}:
        further = [Vote(f"r{n}", cluster, 1.0) for n in range(open_votes)]
        most = max(most, weight(cluster, [*votes, *further]))
    assert most >= weight(winner, votes) - 1e-9


@given(ballots)
def test_nothing_is_known_of_other_rules(fixed: Any) -> None:
    votes = [Vote(f"f{n}", *vote) for n, vote in enumerate(fixed)]
    assert not is_decided(votes, 0, LogOdds())
    assert not is_decided(votes, 0, LogOdds(0.2))


# --- the graph ------------------------------------------------------------------------------


def said(answer: int | None, confidence: float | None) -> Any:
    """A reply, with what the critic will say of it. None fails."""
    return StatusError(400, "no") if answer is None else f"{confidence}: Answer: {answer}"


def told(question: str, response: Any) -> float | None:
    found = re.match(r"[\d.e-]+", response["text"])
    return float(found[0]) if found else None


def planned(plan: list[list[str]]) -> Any:
    """A router that takes the actions of a plan, round after round."""
    rounds = itertools.count()
    return lambda seen: plan[next(rounds)][: len(seen)]


replies = st.builds(said, st.sampled_from([0, 0, 0, 1, 2, None]), st.none() | unit)
SIZES = st.integers(1, 5)


@st.composite
def deliberations(draw: Any) -> dict[str, Any]:
    size, recruits = draw(SIZES), draw(st.booleans())
    rounds = draw(st.integers(0 if recruits else 1, 2))  # without either, nothing can be saved
    row = st.lists(st.sampled_from(ACTIONS), min_size=size, max_size=size)
    options: dict[str, Any] = {
        "consensus": draw(st.sampled_from(list(RULES))),
        "critic": draw(st.sampled_from([told, None])),
        "max_rounds": rounds,
        "stop_when_settled": draw(st.booleans()),
        "explore": 0.0,
    }
    plan = [draw(row) for _ in range(rounds)]
    if recruits:
        options |= {"recruit": AdaptiveRecruiting(wave=draw(st.integers(1, 2)), cost=0.0)}
        if draw(st.booleans()):
            plan, options["max_rounds"] = [], 0
    script = [
        [draw(replies.filter(lambda r: isinstance(r, str) or size > 1)) for _ in range(rounds + 1)]
        for _ in range(size)
    ]
    script[0][0] = "0.5: Answer: 0"  # one proposal at least
    return {"options": options, "plan": plan, "script": script}


def run(
    script: list[list[Any]], plan: list[list[str]], options: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    models = [says(first, rest or first) for first, *rest in script]
    team = [Agent(f"a{n}", model, retries=0) for n, model in enumerate(models)]
    router = planned(plan) if plan else "always-persist"
    graph = create_deliberation(team, router=router, answer=MathAnswer(), **options).compile()
    return graph.invoke(Q)["deliberation"], totals(models)["calls"]


@settings(max_examples=100, deadline=None)
@given(deliberations())
@pytest.mark.filterwarnings("ignore:all .* proposed the very same text")
def test_the_answer_is_the_same_and_what_was_saved_is_told(case: dict[str, Any]) -> None:
    options = case["options"]
    full, calls = run(case["script"], case["plan"], options)
    short, fewer = run(case["script"], case["plan"], {**options, "stop_when_decided": True})
    assert short["answer"] == full["answer"]
    assert full["usage"]["saved_calls"] == 0
    assert calls == fewer + short["usage"]["saved_calls"]
    if fewer == calls:
        assert (short["support"], short["confidence"]) == (full["support"], full["confidence"])


def split(*refine: str, **options: Any) -> tuple[Any, list[Scripted]]:
    """A team of which two persist with 4 and the third one, who holds 5, would refine."""
    models = [says("0.9: Answer: 4"), says("0.8: Answer: 4"), says("0.9: Answer: 5", [*refine])]
    given_ = {
        "critic": told, "router": lambda seen: ["PERSIST", "PERSIST", "REFINE"], "max_rounds": 1,
        "answer": MathAnswer(), "stop_when_decided": True, **options,
    }  # fmt: skip
    team = [Agent(f"a{n}", model) for n, model in enumerate(models, 1)]
    return create_deliberation(team, **given_), models


@pytest.mark.parametrize("rule", RULES)
def test_a_refine_that_cannot_change_the_answer_is_not_asked(rule: str, tmp_path: Path) -> None:
    builder, models = split("0.9: Answer: 6", consensus=rule, traces=tmp_path / "traces")
    graph = builder.compile()
    parts = list(graph.stream(Q, stream_mode=["custom", "values"]))
    found = parts[-1][1]["deliberation"]
    assert [model.kinds() for model in models] == [["propose"]] * 3
    assert (found["answer"], found["stop_reason"]) == ("4", "decided")
    assert found["usage"]["saved_calls"] == 1
    assert found["support"] == pytest.approx(2 / 3)
    texts = [
        part["text"] for kind, part in parts if kind == "custom" and part["event"] == "decided"
    ]
    assert texts[2].endswith("as no new answer could change the result")
    write_page(tmp_path / "traces", tmp_path / "page.html")
    assert "no new answer could change the result" in (tmp_path / "page.html").read_text()


def test_the_record_says_that_refine_was_barred() -> None:
    builder, _ = split("0.9: Answer: 6")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    graph.invoke(Q, config)
    episode = Episode.from_state(graph.get_state(config).values)
    turn = episode.turns[2]
    assert (turn["action"], turn["blocked"]) == ("PERSIST", "decided")
    assert (turn["mask"][1], turn["probabilities"]) == (False, [1.0, 0.0, 0.0])
    assert episode.options["stop_when_decided"] is True
    assert Episode.from_json(episode.to_json()) == episode


def test_only_the_last_round_is_decided() -> None:
    builder, models = split("0.9: Answer: 6", "0.9: Answer: 7", max_rounds=2)
    found = builder.compile().invoke(Q)["deliberation"]
    assert models[2].kinds() == ["propose", "refine"]
    assert (found["rounds"], found["usage"]["saved_calls"]) == (2, 1)


def test_a_sure_enough_newcomer_is_asked() -> None:
    builder, models = split("1.0: Answer: 5")
    models[0].reply = models[1].reply = lambda _: "0.4: Answer: 4"
    found = builder.compile().invoke(Q)["deliberation"]
    assert models[2].kinds() == ["propose", "refine"]
    assert (found["answer"], found["usage"]["saved_calls"]) == ("5", 0)


def test_a_forced_action_is_carried_out() -> None:
    builder, models = split("0.9: Answer: 6")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    graph.invoke(Q, config)
    [before, _] = [s for s in graph.get_state_history(config) if s.next == ("router",)]
    fork = graph.update_state(before.config, force_actions({"a3": "REFINE"}), as_node="consensus")
    found = graph.invoke(None, fork)["deliberation"]
    assert models[2].kinds() == ["propose", "refine"]
    assert (found["answer"], found["stop_reason"]) == ("4", "max_rounds")


def test_agents_who_could_not_overturn_the_vote_are_not_asked() -> None:
    models = [says(f"{n}. Answer: 4") for n in range(5)]
    given_: dict[str, Any] = {
        "critic": None, "router": "always-persist", "recruit": AdaptiveRecruiting(cost=0.0),
    }  # fmt: skip
    graph = create_deliberation(models, stop_when_decided=True, **given_).compile()
    found = graph.invoke(Q)["deliberation"]
    assert found["not_asked"] == ["agent-4", "agent-5"]
    assert (found["answer"], found["usage"]["saved_calls"]) == ("4", 2)
    graph = create_deliberation(models, **{**given_, "router": "always-refine"}, max_rounds=1)
    refined = graph.compile().invoke(Q)["deliberation"]
    assert refined["not_asked"] == []


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"consensus": "log-odds"}, 'consensus="confidence"'),
        ({"consensus": lambda votes: 0}, 'consensus="confidence"'),
        ({"interrupt_when": Unsure(support_below=0.5)}, "interrupt_when"),
        ({"alternatives": 2}, "alternatives=0"),
        ({"answer": StructuredAnswer({"type": "object"}, by_field=True)}, "by_field=False"),
    ],
)
def test_an_option_that_could_not_work_is_refused(options: dict[str, Any], needed: str) -> None:
    with pytest.raises(ConfigurationError, match=f"stop_when_decided needs .*{needed}"):
        create_deliberation([says("4")], stop_when_decided=True, **options)


# --- verdicts that nobody would read --------------------------------------------------------


def debate(logprobs: list[float], **options: Any) -> tuple[dict[str, Any], list[Scripted]]:
    models = [
        says(f"Answer: {n % 2}", f"Answer: {n}", yes(0.3 + 0.1 * n), logprob=logprob)
        for n, logprob in enumerate(logprobs)
    ]
    given_ = {"answer": MathAnswer(), "max_rounds": 2, **options}
    graph = create_deliberation([Agent(f"a{n}", m) for n, m in enumerate(models)], **given_)
    return graph.compile().invoke(Q)["deliberation"], models


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([-0.01, -0.08, -0.3, -2.0]), min_size=2, max_size=4),
    st.sampled_from(["threshold", "always-refine", "expected-gain"]),
    st.sampled_from(["confidence", "majority", "log-odds"]),
)
def test_an_unread_verdict_is_left_out_and_nothing_else_changes(
    tmp_path_factory: pytest.TempPathFactory, logprobs: list[float], router: str, rule: str
) -> None:
    folder = tmp_path_factory.mktemp("traces")
    options: dict[str, Any] = {"router": router, "consensus": rule}
    full, asked = debate(logprobs, traces=TraceWriter(folder), **options)
    short, models = debate(logprobs, **options)
    assert "critique" in asked[0].kinds()
    assert not any("critique" in model.kinds() for model in models)
    saved = totals(asked)["calls"] - totals(models)["calls"]
    assert (short["usage"]["saved_calls"], full["usage"]["saved_calls"]) == (saved, 0)
    differ = {"episode", "started", "seconds", "usage", "trace_error"}
    assert {k: v for k, v in short.items() if k not in differ} == {
        k: v for k, v in full.items() if k not in differ
    }


def by_verdict(seen: list[Any]) -> list[str]:
    return ["REFINE" if feature(s["own"], "self_verdict") < 0.9 else "PERSIST" for s in seen]


@pytest.mark.parametrize(
    ("options", "verdicts"),
    [
        ({}, 0),
        ({"router": by_verdict}, 2),  # of the proposals and of the first round
        ({"router": ThresholdRouter(score="self_verdict")}, 2),
        ({"router": by_verdict, "max_rounds": 0}, 0),
        ({"router": "always-refine", "max_calls": 40}, 3),
        ({"router": "always-refine", "critic": "self"}, 3),
        ({"router": "always-refine", "timeout": 60.0}, 0),
    ],
)
def test_a_verdict_is_asked_for_where_somebody_reads_it(
    options: dict[str, Any], verdicts: int
) -> None:
    _, models = debate([-0.3, -0.3], stop_when_settled=False, **options)
    assert models[0].kinds().count("critique") == verdicts


def test_without_log_probabilities_the_verdict_is_the_confidence() -> None:
    models = [says("Answer: 4", critique=yes(0.7))]
    found = create_deliberation(models).compile().invoke(Q)["deliberation"]
    assert found["confidence"] == pytest.approx(0.7)
    assert found["usage"]["saved_calls"] == 0
