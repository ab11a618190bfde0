"""The expected-gain rule: what it decides, what it records, and the file it is read from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph import Agent, Episode, MathAnswer, RouterError, create_deliberation
from mpdf_langgraph.calibration import log_odds
from mpdf_langgraph.expected_gain import (
    DEFAULT,
    STANDINGS,
    ExpectedGainRouter,
    Gains,
    Rate,
    load_expected_gain,
    view_of,
)
from mpdf_langgraph.observation import INDEX, NAMES
from mpdf_langgraph.router import for_team, make_router
from mpdf_langgraph.state import ACTIONS, Observation
from tests.support.running import record_of
from tests.support.scripted import says

EVERYTHING = [True, True, True]
PERSIST, REFINE, CONCEDE = ([float(a == b) for b in ACTIONS] for a in ACTIONS)


def vector(**features: float) -> list[float]:
    values = dict.fromkeys(NAMES, 0.0) | {"answer_valid": 1.0, "confidence": 0.5}
    values |= features
    return [*values.values()]


def seen(own: list[float], *peers: list[float]) -> Observation:
    return Observation(own=own, peers=[*peers])


def flat(p: float, **more: Any) -> Rate:
    return Rate(standing=dict.fromkeys(STANDINGS, log_odds(p)), **more)


def gains(p: float, h: float, d: float, q: float, **more: Any) -> Gains:
    given: dict[str, Any] = {"tokens": {"": 1000.0}, "cost": 0.0, **more}
    return Gains(right=flat(p), healed=flat(h), broken=flat(d), rival=flat(q), **given)


rates = st.floats(0.01, 0.99)


@given(rates, rates, rates, rates, st.floats(0, 0.5))
def test_it_takes_what_gains_most(p: float, h: float, d: float, q: float, cost: float) -> None:
    router = ExpectedGainRouter(gains(p, h, d, q, cost=cost))
    observation = seen(vector(), vector(agrees=0.0))
    [row] = router.decide([observation], [EVERYTHING])
    refine, concede = (1 - p) * h - p * d - cost, q - p
    [estimated] = router.estimate([observation])
    assert estimated["refine"] == pytest.approx(refine, abs=1e-9)
    assert estimated["concede"] == pytest.approx(concede, abs=1e-9)
    worth = {"PERSIST": 0.0, "REFINE": refine, "CONCEDE": concede}
    chosen = ACTIONS[row.index(1.0)]
    assert worth[chosen] >= max(worth.values()) - 1e-6


def test_a_masked_action_is_not_taken() -> None:
    router = ExpectedGainRouter(gains(0.1, 0.9, 0.1, 0.8))
    observation = seen(vector(), vector())
    for mask, row in (
        ([True, True, True], REFINE),
        ([True, False, True], CONCEDE),
        ([True, False, False], PERSIST),
    ):
        assert router.decide([observation], [mask]) == [row]


def test_it_says_never_where_debate_does_harm() -> None:
    """GPT-3.5 over MATH: h .15 and d .45, so that a REFINE pays below p = .25 alone."""
    router = ExpectedGainRouter()
    rows = []
    for confidence in (0.2, 0.3, 0.5, 0.9):
        own = vector(confidence=confidence, confidence_known=1.0)
        peer = vector(confidence=confidence, confidence_known=1.0)
        rows += router.decide([seen(own, peer)], [EVERYTHING])
    assert rows == [REFINE, PERSIST, PERSIST, PERSIST]


def test_it_concedes_to_the_surer_rival() -> None:
    own = vector(confidence=0.6, confidence_known=1.0)
    rival = vector(confidence=0.8, confidence_known=1.0, cluster_confidence=0.5)
    weak = vector(confidence=0.99, confidence_known=1.0, cluster_confidence=0.1)
    router = ExpectedGainRouter()
    assert router.decide([seen(own, weak, rival)], [EVERYTHING]) == [CONCEDE]
    assert router.estimate([seen(own, weak, rival)])[0]["q"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("own", "peers", "standing"),
    [
        ({"answer_valid": 0.0}, [{}], "no answer"),
        ({}, [{"agrees": 1.0}], "agreed"),
        ({}, [{"answer_valid": 0.0}], "agreed"),
        ({"margin": 0.3}, [{"agrees": 1.0}, {}], "ahead"),
        ({}, [{}], "tied"),
        ({"margin": -0.3}, [{}, {}], "behind"),
    ],
)
def test_how_an_answer_stands(
    own: dict[str, float], peers: list[dict[str, float]], standing: str
) -> None:
    assert view_of(seen(vector(**own), *(vector(**peer) for peer in peers))).standing == standing


def test_every_agent_has_rates_of_its_own() -> None:
    known = DEFAULT.model_copy(
        update={
            "right": flat(0.5),
            "rival": flat(0.01),
            "healed": flat(0.5, agents={"ann": 2.0, "bo": -2.0}),
            "tokens": {"": 800.0, "ann": 400.0},
            "cost": 0.1,
        }
    )
    router = for_team(ExpectedGainRouter(known), ["bo", "ann"])
    assert isinstance(router, ExpectedGainRouter)
    both = [seen(vector(), vector()), seen(vector(), vector())]
    assert router.decide(both, [EVERYTHING] * 2) == [PERSIST, REFINE]
    assert [one["price"] for one in router.estimate(both)] == pytest.approx([0.08, 0.04])
    assert for_team(make_router("threshold"), ["ann"]) == make_router("threshold")
    dear = ExpectedGainRouter(known, cost=1.0).for_team(["bo", "ann"])
    assert dear.decide(both, [EVERYTHING] * 2) == [PERSIST, PERSIST]


def test_the_record_and_the_graph_show_what_a_decision_rests_on(tmp_path: Path) -> None:
    builder = create_deliberation(
        [Agent("ann", says("4")), Agent("bo", says("5"))],
        router="expected-gain",
        answer=MathAnswer(),
        critic=lambda question, response: 0.9 if response["agent"] == "ann" else 0.1,
        max_rounds=1,
    )
    episode = record_of(builder, {"question": "2+2?"})
    assert episode.outcome["answer"] == "4"
    ann, bo = episode.turns
    assert (ann["action"], bo["action"]) == ("PERSIST", "CONCEDE")
    assert ann["estimates"]["p"] == pytest.approx(0.9)
    assert bo["estimates"]["q"] == pytest.approx(0.9)
    assert Episode.from_json(episode.to_json()) == episode


def test_a_file_of_rates(tmp_path: Path) -> None:
    file = tmp_path / "expected_gain.json"
    known = gains(0.5, 0.4, 0.1, 0.3, cost=0.2)
    file.write_text(known.model_dump_json())
    assert load_expected_gain(tmp_path) == load_expected_gain(file)
    assert load_expected_gain(tmp_path).gains == known
    assert load_expected_gain(tmp_path, cost=0.5).cost == 0.5
    versions = {
        load_expected_gain(tmp_path).version,
        load_expected_gain(tmp_path, cost=0.5).version,
        ExpectedGainRouter().version,
        ExpectedGainRouter(cost=0.5).version,
    }
    assert len(versions) == 4  # a trace tells by which rates it was decided
    assert ExpectedGainRouter(known).for_team(["ann"]).version in versions
    with pytest.raises(RouterError, match="fit_rules"):
        load_expected_gain(tmp_path / "nothing")
    content = json.loads(known.model_dump_json())
    for change, told in (
        ({"feature_version": 99}, "features of version 99"),
        ({"right": {"standing": {}}}, "lacks the standing"),
        ({"cost": -1.0}, "no table of rates"),
    ):
        file.write_text(json.dumps(content | change))
        with pytest.raises(RouterError, match=told):
            load_expected_gain(tmp_path)


def test_the_features_it_reads_exist() -> None:
    assert {"answer_valid", "agrees", "margin", "cluster_confidence", "refined"} <= set(INDEX)


def test_another_critic_than_that_of_the_rates_is_told() -> None:
    team = [Agent("ann", says("4")), Agent("bob", says("5"))]
    router = ExpectedGainRouter(gains(0.5, 0.5, 0.5, 0.5, critic="logprob"))
    with pytest.warns(UserWarning, match="'expected-gain' was fitted with the critic logprob"):
        create_deliberation(team, router=router, critic="self")
    for critic in ("logprob", "self+logprob"):  # both give the same confidence
        create_deliberation(team, router=router, critic=critic)


def test_rates_without_a_critic_are_those_of_older_files(tmp_path: Path) -> None:
    old = gains(0.5, 0.5, 0.5, 0.5).model_dump(mode="json")
    del old["critic"]
    file = tmp_path / "expected_gain.json"
    file.write_text(json.dumps(old))
    router = load_expected_gain(file)
    assert router.critics == ()
    content = json.dumps(old, separators=(",", ":"))
    assert router.version == hashlib.sha256(content.encode()).hexdigest()[:12]
    create_deliberation([Agent("ann", says("4"))], router=router, critic="self")
