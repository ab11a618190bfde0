"""Observations: ranges, symmetry, and that a trace is enough to rebuild them."""

import copy
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import Agent, Episode, MathAnswer, create_deliberation
from mpdf_langgraph.observation import FEATURES, INDEX, NAMES, Situation, feature, observe
from mpdf_langgraph.router import competences
from mpdf_langgraph.state import LogprobSummary, Observation
from tests.support.records import critique, profile, response, team, teams, unit
from tests.support.running import record_of


def situation(held: Any, **fields: Any) -> Situation:
    plain = {"previous": {}, "competence": {}, "round": 1, "max_rounds": 3}
    return Situation(held=held, **{**plain, **fields})


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    held = draw(teams())
    some = st.sampled_from(sorted(held))
    round_ = draw(st.integers(1, 30))
    return Situation(
        held=held,
        previous=draw(st.dictionaries(some, st.none() | st.integers(0, 4))),
        competence=draw(st.dictionaries(some, unit)),
        round=round_,
        max_rounds=draw(st.integers(round_, 40)),
    )


def in_range(value: float, documented: str) -> bool:
    """Tell whether a value lies in a range as written in FEATURES, e.g. "(0, 1]" or "{0, 1}"."""
    low, high = (float(bound) for bound in documented[1:-1].split(","))
    if documented[0] == "{":
        return value in (low, high)
    above = value > low if documented[0] == "(" else value >= low
    return above and value <= high


def everyone(observations: dict[str, Observation]) -> Iterator[list[float]]:
    for observation in observations.values():
        yield from (observation["own"], *observation["peers"])


# --- properties -----------------------------------------------------------------------------


def test_the_documented_ranges_are_read_as_written() -> None:
    assert [in_range(v, "(0, 1]") for v in (0.0, 0.5, 1.0, 1.1)] == [False, True, True, False]
    assert [in_range(v, "{0, 1}") for v in (0.0, 0.5, 1.0)] == [True, False, True]
    assert not in_range(math.nan, "[0, 1]")
    assert all(r[0] in "[({" and r[-1] in "])}" for r, _ in FEATURES.values())


@given(situations())
def test_shapes_and_ranges(given_situation: Situation) -> None:
    observations = observe(given_situation)
    size = len(given_situation.held)
    assert list(observations) == list(given_situation.held)
    assert all(len(o["peers"]) == size - 1 for o in observations.values())
    for vector in everyone(observations):
        assert len(vector) == len(FEATURES)
        for value, (name, (documented, _)) in zip(vector, FEATURES.items(), strict=True):
            assert isinstance(value, float)
            assert in_range(value, documented), (name, value)


@given(situations(), st.randoms(use_true_random=False))
def test_the_order_of_the_team_moves_peers_and_nothing_else(
    given_situation: Situation, rng: random.Random
) -> None:
    order = list(given_situation.held)
    rng.shuffle(order)
    shuffled = given_situation._replace(held={n: given_situation.held[n] for n in order})
    before, after = observe(given_situation), observe(shuffled)
    for agent in order:
        assert after[agent]["own"] == before[agent]["own"]
        assert sorted(after[agent]["peers"]) == sorted(before[agent]["peers"])


@given(situations())
def test_peers_stand_in_the_order_of_the_team(given_situation: Situation) -> None:
    observations = observe(given_situation)
    agrees = INDEX["agrees"]
    for observer, observation in observations.items():
        others = [name for name in given_situation.held if name != observer]
        for name, seen in zip(others, observation["peers"], strict=True):
            own = observations[name]["own"]
            assert [*seen[:agrees], *seen[agrees + 1 :]] == [*own[:agrees], *own[agrees + 1 :]]


@given(situations())
def test_pure(given_situation: Situation) -> None:
    untouched = copy.deepcopy(given_situation)
    first = observe(given_situation)
    assert given_situation == untouched
    # Through JSON and with every other mapping turned round: the same numbers, bit for bit.
    read_back = Situation(*json.loads(json.dumps(given_situation)))
    turned = read_back._replace(
        previous=dict(reversed(read_back.previous.items())),
        competence=dict(reversed(read_back.competence.items())),
        held={
            name: r and {**r, "critique": r["critique"] and dict(reversed(r["critique"].items()))}
            for name, r in read_back.held.items()
        },
    )
    assert observe(turned) == first


@given(situations())
def test_agreement_is_relational_and_symmetric(given_situation: Situation) -> None:
    observations = observe(given_situation)
    clusters = {n: r["cluster"] if r else None for n, r in given_situation.held.items()}
    for observer, observation in observations.items():
        assert feature(observation["own"], "agrees") == 1.0
        others = [name for name in clusters if name != observer]
        for name, seen in zip(others, observation["peers"], strict=True):
            same = clusters[name] is not None and clusters[name] == clusters[observer]
            assert feature(seen, "agrees") == float(same)


@given(situations())
def test_what_the_clusters_are_called_does_not_matter(given_situation: Situation) -> None:
    renamed = {
        n: r and {**r, "cluster": None if r["cluster"] is None else 9 - r["cluster"]}
        for n, r in given_situation.held.items()
    }
    previous = {n: None if c is None else 9 - c for n, c in given_situation.previous.items()}
    assert observe(given_situation._replace(held=renamed, previous=previous)) == observe(
        given_situation
    )


# --- values ---------------------------------------------------------------------------------


def test_nothing_known() -> None:
    """No response, no critique, no log-probabilities, no competence: the documented defaults."""
    own = observe(situation({"a": None}, round=1, max_rounds=1))["a"]["own"]
    halves = {"claimed_confidence", "confidence", "logprob", "self_verdict", "competence"}
    expected = dict.fromkeys(NAMES, 0.0) | dict.fromkeys(halves, 0.5)
    expected |= {"agrees": 1.0, "rounds_left": 0.1, "team_size": 1.0}
    assert dict(zip(NAMES, own, strict=True)) == expected

    bare = observe(situation({"a": response("a", 0)}))["a"]["own"]
    for name in halves - {"competence"}:
        assert feature(bare, name) == 0.5
    for name in ("claim_given", "confidence_known", "logprob_known", "self_known"):
        assert feature(bare, name) == 0.0
    unsure = response("a", 0, critique=critique(None, {}))
    known = feature(observe(situation({"a": unsure}))["a"]["own"], "confidence_known")
    assert known == 0.0


def test_the_group_by_hand() -> None:
    held = team((0, 0.9), (0, 0.3), (1, 0.6), (None, None))
    a, b, c, d = (o["own"] for o in observe(situation(held)).values())

    def values(name: str) -> list[float]:
        return [feature(vector, name) for vector in (a, b, c, d)]

    assert values("answer_valid") == [1, 1, 1, 0]
    assert values("support") == [1 / 3, 1 / 3, 0, 0]
    assert values("plurality") == [1, 1, 0, 0]
    assert values("margin") == [0.25, 0.25, -0.25, -0.5]
    assert values("distinct_answers") == [0.5] * 4
    assert values("cluster_confidence") == pytest.approx([1.2 / 1.8, 1.2 / 1.8, 0.6 / 1.8, 0])
    assert values("team_size") == [0.25] * 4


def test_two_answers_with_equal_votes_are_both_in_the_lead() -> None:
    both = observe(situation(team((0, 0.9), (1, 0.1))))
    assert [feature(o["own"], "plurality") for o in both.values()] == [1.0, 1.0]


def test_rounding_does_not_depend_on_the_order() -> None:
    members = list(team((0, 0.1), (0, 0.2), (0, 0.3), (1, 0.7)).items())
    seen = {
        feature(observe(situation(dict(order)))["d"]["own"], "cluster_confidence")
        for order in itertools.permutations(members)
    }
    assert len(seen) == 1


def test_one_response_by_hand() -> None:
    told = response(
        "b",
        0,
        round_=2,
        profile=profile(
            steps=9, operators=99, length=10**9, hedges=1, claimed_confidence=0.8, truncated=True
        ),
        logprobs=LogprobSummary(mean=math.log(0.7), total=-20.0, lowest_window=-3.0, tokens=60),
        critique=critique(0.65, {"self_json": 0.2, "self": 0.9}),
    )
    now = situation(
        {"a": told, "b": None}, previous={"a": 1}, competence={"a": 0.4}, round=2, max_rounds=4
    )
    own = dict(zip(NAMES, observe(now)["a"]["own"], strict=True))
    expected = {
        "steps": math.log(10) / math.log(101),
        "operators": math.log(100) / math.log(101),
        "length": 1.0,
        "hedges": math.log(2) / math.log(11),
        "claimed_confidence": 0.8,
        "claim_given": 1.0,
        "truncated": 1.0,
        "changed": 1.0,
        "refined": 1.0,
        "adopted": 1.0,
        "confidence": 0.65,
        "confidence_known": 1.0,
        "logprob": 0.7,
        "logprob_known": 1.0,
        "logprob_raw": -0.4,
        "lowest_window": -0.3,
        "self_verdict": 0.9,
        "self_known": 1.0,
        "competence": 0.4,
        "round": 0.1,
        "rounds_left": 0.3,
    }
    assert {name: own[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("source", ["self", "self_reasoning", "self_json"])
def test_a_verdict_counts_however_it_was_given(source: str) -> None:
    told = response("a", 0, critique=critique(0.65, {source: 0.9}))
    own = observe(situation({"a": told}))["a"]["own"]
    assert feature(own, "self_verdict") == pytest.approx(0.9)
    assert feature(own, "self_known") == 1.0


@pytest.mark.parametrize(
    ("previous", "cluster", "changed"),
    [({}, 0, 0), ({"a": 0}, 0, 0), ({"a": 1}, 0, 1), ({"a": None}, 0, 1), ({"a": None}, None, 0)],
)
def test_changed(previous: dict[str, int | None], cluster: int | None, changed: float) -> None:
    now = situation({"a": response("a", cluster)}, previous=previous)
    assert feature(observe(now)["a"]["own"], "changed") == changed


# --- from the trace -------------------------------------------------------------------------


def scripted(lines: list[str | Exception], logprob: float | None = None) -> Any:
    """Return a chain that answers with one line after the other."""
    script = iter(lines)

    def answer(_: Any) -> AIMessage:
        line = next(script)
        if isinstance(line, Exception):
            raise line
        content = [{"token": "t", "logprob": (logprob or 0.0) * k} for k in range(1, 12)]
        metadata = {"logprobs": {"content": content}} if logprob is not None else {}
        return AIMessage(line, response_metadata={**metadata, "finish_reason": "stop"})

    return RunnableLambda(answer)


def deliberate(
    router: Any, critic: Any, reference: str | None = None, alternatives: int = 0, **options: Any
) -> Episode:
    """Run three rounds of four scripted agents, one of which cannot answer at first."""
    alone = 1 + alternatives
    agents = [
        Agent("ann", scripted(["1 + 1 = 2\n#### 2", *["#### 3"] * 3 * alone], -0.1)),
        Agent("bob", scripted(["I guess #### 3", *["Confidence: 90%\n#### 2"] * 3 * alone])),
        Agent("cid", scripted(["no idea", *["#### 5"] * 3 * alone], -0.02), competence=0.8),
        Agent("dan", scripted([ValueError("x"), *["#### 3"] * 3 * alone]), retries=0),
    ]
    options |= {"router": router, "critic": critic, "alternatives": alternatives}
    builder = create_deliberation(agents, answer=MathAnswer(), stop_when_settled=False, **options)
    return record_of(builder, {"question": "?", "reference": reference})


def rebuilt(episode: Episode, round_: int) -> dict[str, Observation]:
    """Return a round's observations from nothing but the trace record."""
    turns = {t["agent"]: t for t in episode.turns if t["round"] == round_}
    order = [agent["name"] for agent in episode.agents]
    before = {name: turns[name]["before"] for name in order}
    return observe(
        Situation(
            held={n: episode.responses[i] if i else None for n, i in before.items()},
            previous=episode.tallies[round_ - 2]["votes"] if round_ > 1 else {},
            competence=competences(episode.agents),
            round=round_,
            max_rounds=episode.options["max_rounds"],
        )
    )


def mixed(observations: Any) -> list[str]:
    """Refine without an answer, concede when outvoted, else persist."""
    return [
        "REFINE"
        if not feature(o["own"], "answer_valid")
        else "CONCEDE"
        if feature(o["own"], "margin") < 0
        else "PERSIST"
        for o in observations
    ]


@pytest.mark.parametrize("router", ["random", "always-refine", mixed])
@pytest.mark.parametrize(
    "critic",
    ["logprob", lambda question, told: 0.1 + len(told["text"]) / 100],
    ids=["logprob", "length"],
)
@pytest.mark.parametrize("alternatives", [0, 2])
def test_an_episode_is_enough_to_rebuild_them(
    router: Any, critic: str | Callable[..., float], alternatives: int
) -> None:
    episode = deliberate(router, critic, alternatives=alternatives, explore=0.1)
    read_back = Episode.from_json(episode.to_json())
    assert {turn["round"] for turn in episode.turns} == {1, 2, 3}
    for turn in read_back.turns:
        assert rebuilt(read_back, turn["round"])[turn["agent"]] == turn["observation"]
    seen = {tuple(turn["observation"]["own"]) for turn in episode.turns}
    assert len(seen) > len(episode.turns) / 2  # different moments look different


@pytest.mark.parametrize("reference", ["2", "3"])
def test_the_reference_cannot_be_seen(reference: str) -> None:
    told = deliberate(mixed, "logprob", reference=reference)
    assert told.reference == reference
    untold = deliberate(mixed, "logprob")
    assert [t["observation"] for t in told.turns] == [t["observation"] for t in untold.turns]
    assert set(Situation._fields) == {"held", "previous", "competence", "round", "max_rounds"}
