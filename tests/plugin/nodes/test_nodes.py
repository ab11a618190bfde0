"""What the router and the consensus put on record, round by round."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from mpdf_langgraph import (
    Agent,
    ChoiceAnswer,
    Episode,
    MathAnswer,
    TextAnswer,
    create_deliberation,
)
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.nodes.consensus import _NeedsThread, _same_at_once
from mpdf_langgraph.observation import Situation, feature, observe
from mpdf_langgraph.router import FixedRouter, draw
from tests.support.running import record_of
from tests.support.scripted import Request, Scripted, StatusError, says

Q = {"question": "What is 2 + 2?"}


def record(team: list[Any], **options: Any) -> Episode:
    """The episode of one deliberation."""
    defaults: dict[str, Any] = {"critic": None, "answer": MathAnswer(), "max_rounds": 1}
    return record_of(create_deliberation(team, **{**defaults, **options}), Q)


def wavering(name: str) -> Scripted:
    """Another answer at every call, once in a while none."""
    answers = ["1", "2", "none", "3", "1", "2"]

    def reply(request: Request) -> str:
        return f"{name} {request.number}, perhaps #### {answers[request.number % 6]}"

    return Scripted(reply=reply, logprob=-0.1 * len(name))


def lively(rounds: int = 5) -> Episode:
    return record(
        [wavering("a"), wavering("bb"), Agent("late", says(StatusError(400), "now #### 2"))],
        router="random",
        critic="logprob",
        max_rounds=rounds,
        stop_when_settled=False,
        explore=0.2,
        alternatives=1,
    )


def test_observations_can_be_rebuilt_from_the_record() -> None:
    episode = lively()
    competence = {agent["name"]: agent["competence"] for agent in episode.agents}
    for round_ in range(1, 6):
        turns = [turn for turn in episode.turns if turn["round"] == round_]
        rebuilt = observe(
            Situation(
                held={t["agent"]: episode.responses.get(t["before"] or "") for t in turns},
                previous=episode.tallies[round_ - 2]["votes"] if round_ > 1 else {},
                competence=competence,
                round=round_,
                max_rounds=5,
            )
        )
        assert [turn["agent"] for turn in turns] == ["agent-1", "agent-2", "late"]
        for turn in turns:
            assert turn["observation"] == rebuilt[turn["agent"]]


def test_turns_follow_from_each_other() -> None:
    episode = lively()
    held: dict[str, str | None] = {"agent-1": "agent-1@0", "agent-2": "agent-2@0", "late": None}
    for round_ in range(1, 6):
        before = dict(held)
        for turn in (t for t in episode.turns if t["round"] == round_):
            name, action = turn["agent"], turn["action"]
            assert turn["before"] == before[name]
            assert turn["mask"][0]
            assert turn["mask"][2] == (turn["target"] is not None)
            assert sum(turn["probabilities"]) == pytest.approx(1.0)
            assert action == draw(turn["probabilities"], f"{episode.id}/{round_}/{name}")
            drawn = episode.responses.get(f"{name}@{round_}")
            if action == "PERSIST":
                assert turn["after"] == before[name]
            elif action == "CONCEDE":
                assert turn["after"] == turn["target"]
                assert turn["target"] in before.values()
            else:
                assert turn["after"] in {f"{name}@{round_}", before[name]}
            assert (drawn is None) or action == "REFINE"
            held[name] = turn["after"]
        votes = {n: episode.responses[i]["cluster"] if i else None for n, i in held.items()}
        assert episode.tallies[round_]["votes"] == votes


def test_equal_answers_share_a_cluster_over_all_rounds() -> None:
    team = [
        says("#### 0.5", "so #### 7"),
        says("#### 1/2", "ok #### 14/2"),
        says("#### 7", "#### 3"),
    ]
    episode = record(team, router="always-refine", stop_when_settled=False)
    assert episode.representatives == ["0.5", "7", "3"]
    clusters = [[r[f"agent-{i}@{k}"]["cluster"] for i in (1, 2, 3)] for k in (0, 1)
                for r in [episode.responses]]  # fmt: skip
    assert clusters == [[0, 0, 1], [1, 1, 2]]


def test_refine_replaces_a_response_that_had_no_answer_either() -> None:
    episode = record(
        [says("no idea", "still none"), says("#### 4")],
        router=lambda _: ["REFINE", "PERSIST"],
        stop_when_settled=False,
    )
    assert episode.turns[0]["after"] == "agent-1@1"
    assert episode.tallies[-1]["votes"] == {"agent-1": None, "agent-2": 0}
    assert episode.failures == []


def test_spent_budget_blocks_refine_and_says_which() -> None:
    team = [says("#### 4", "I say #### 4"), says("#### 5", "I say #### 5")]
    episode = record(team, router="always-refine", max_calls=3, alternatives=2, max_rounds=2)
    first, second = episode.turns[:2]
    assert (first["action"], first["mask"][1], first["blocked"]) == ("REFINE", True, None)
    assert (second["action"], second["mask"][1], second["blocked"]) == (
        "PERSIST",
        False,
        "max_calls",
    )
    assert len(first["alternatives"]) == 2
    assert second["alternatives"] == []


def test_agreement_is_measured_among_the_samples_of_the_round() -> None:
    team = [says("#### 4", "now #### 5"), says("#### 5", "still #### 5"), says("or #### 5")]
    episode = record(team, critic="logprob", router=lambda _: ["REFINE", "REFINE", "PERSIST"])
    confidence = {i: r["critique"]["confidence"] for i, r in episode.responses.items()}
    assert confidence == {
        "agent-1@0": pytest.approx(1 / 3),
        "agent-2@0": pytest.approx(2 / 3),
        "agent-3@0": pytest.approx(2 / 3),
        "agent-1@1": 1.0,
        "agent-2@1": 1.0,
    }


def test_competence_reaches_the_observation_and_the_record() -> None:
    team = [Agent("a", says("#### 4"), competence=0.9), Agent("b", says("#### 5"))]
    episode = record(team, router="always-persist")
    assert [agent["competence"] for agent in episode.agents] == [0.9, 0.5]
    own = [feature(turn["observation"]["own"], "competence") for turn in episode.turns]
    assert own == [0.9, 0.5]


@dataclass(frozen=True)
class Knowing(FixedRouter):
    """Always persists, and knows how good some agents are."""

    name: str = "knowing"
    probabilities: tuple[float, float, float] = (1.0, 0.0, 0.0)
    competence: Any = field(default_factory=lambda: {"a": 0.1, "b": 0.8, "elsewhere": 0.3})


def test_competence_not_given_is_what_the_router_knows() -> None:
    team = [
        Agent("a", says("#### 4"), competence=0.9),
        Agent("b", says("#### 5")),
        Agent("c", says("#### 5")),
    ]
    episode = record(team, router=Knowing())
    assert [agent["competence"] for agent in episode.agents] == [0.9, 0.8, 0.5]
    for turn, own, peers in zip(
        episode.turns, [0.9, 0.8, 0.5], [[0.8, 0.5], [0.9, 0.5], [0.9, 0.8]], strict=True
    ):
        assert feature(turn["observation"]["own"], "competence") == own
        assert [feature(p, "competence") for p in turn["observation"]["peers"]] == peers


@pytest.mark.parametrize("wrong", [0.5, {"a": 1.5}, {"a": float("nan")}, {"a": "high"}, [0.5]])
def test_a_routers_wrong_competence_is_told_when_the_graph_is_built(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'knowing': competence must map .* \[0, 1\]"):
        create_deliberation([says("#### 4")], router=Knowing(competence=wrong))


def test_consensus_rule_of_ones_own() -> None:
    team = [says("#### 4"), says("or #### 4"), says("#### 5")]
    minority = record(team, consensus=lambda votes: votes[-1].cluster, router="always-persist")
    assert minority.outcome["answer"] == "5"
    assert minority.outcome["support"] == pytest.approx(1 / 3)
    with pytest.raises(ConfigurationError, match="returned 7"):
        record(team, consensus=lambda votes: 7)


def test_confidence_weighs_the_vote() -> None:
    confidence = {"4": 0.9, "5": 0.3}
    team = [says("#### 4"), says("#### 5"), says("or #### 5")]
    options: dict[str, Any] = {
        "critic": lambda q, r: confidence[r["answer"]],
        "router": "always-persist",
    }
    weighted = record(team, consensus="confidence", **options)
    assert weighted.outcome["answer"] == "4"
    assert weighted.outcome["confidence"] == 0.9
    assert weighted.outcome["agent"] == "agent-1"
    assert record(team, consensus="majority", **options).outcome["answer"] == "5"


def test_only_what_takes_no_time_is_compared_at_once() -> None:
    class Slow(MathAnswer):
        pass

    assert _same_at_once(MathAnswer(), "4.50", "4.5")
    assert not _same_at_once(MathAnswer(), "-4", "4")
    assert not _same_at_once(ChoiceAnswer(4), "A", "B")
    assert _same_at_once(TextAnswer(), "the ice cream", "Ice-cream")
    for schema, a, b in (
        (MathAnswer(), "x + 1", "4"),
        (MathAnswer(), "4", "1" * 16),
        (Slow(), "4", "5"),
        (TextAnswer(), "4", "5" * 100),
        (TextAnswer(lambda a, b: a == b), "4", "5"),
    ):
        with pytest.raises(_NeedsThread):
            _same_at_once(schema, a, b)
