"""Calibrations from traces: what they are fitted on, and what a record becomes with another."""

import json
import operator
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from mpdf_langgraph import (
    Agent,
    Calibration,
    Episode,
    MathAnswer,
    TraceReader,
    TraceWriter,
    create_deliberation,
)
from mpdf_langgraph.calibration import EDGE, Curve
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.state import Intervention
from tests.support.counterfactuals import decisions
from tests.support.scripted import Reply, Request, Scripted, says
from tests.support.synthetic import synthetic_episodes
from tests.support.written import write_traces
from training.learn.calibrate import (
    LEAST,
    Judged,
    apply_curve,
    fit_calibration,
    fit_curve,
    judge,
    judged_of,
)
from training.learn.dataset import load, make_groups, split
from training.learn.measures import quality
from training.learn.recalibrate import observations, recalibrate
from training.learn.recorded import read_recorded

shares = st.floats(0, 1)


def of(proposed: tuple[float, float], refined: tuple[float, float]) -> Calibration:
    stages = {"proposed": proposed, "refined": refined}
    curve = {stage: {"slope": a, "shift": b} for stage, (a, b) in stages.items()}
    return Calibration.model_validate({"logprob": curve})


HARSH = of((3.0, -2.0), (0.3, 1.0))


def made(rows: list[tuple[str, str, float, float]]) -> Judged:
    """From measurement, stage, confidence and right. Each is a question of its own."""
    source, stage, confidence, right = zip(*rows, strict=True)
    texts = [np.array(column, object) for column in (source, stage)]
    question = np.array([f"q{i}" for i in range(len(rows))], object)
    agent = np.array(["ann"] * len(rows), object)
    return Judged(question, *texts, agent, np.array(confidence), np.array(right))


def drawn(source: str, stage: str, curve: Curve, count: int, seed: int) -> list[Any]:
    """Responses of which `curve` is the truth."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(2, 2, count)
    right = rng.random(count) < [curve(c) for c in confidence]
    return [(source, stage, c, float(r)) for c, r in zip(confidence, right, strict=True)]


# --- fitting --------------------------------------------------------------------------------


@given(st.floats(0, 30), st.floats(-30, 30), shares)
def test_a_curve_is_platts_formula(slope: float, shift: float, p: float) -> None:
    [found] = apply_curve(Curve(slope=slope, shift=shift), np.array([p]))
    clipped = min(max(p, EDGE), 1 - EDGE)
    assert found == pytest.approx(expit(slope * logit(clipped) + shift))


def test_every_measurement_and_stage_has_its_own_curve() -> None:
    truth = {
        ("logprob", "proposed"): Curve(slope=2.0, shift=-1.0),
        ("logprob", "refined"): Curve(slope=0.5, shift=0.5),
        ("self", "proposed"): Curve(slope=1.0, shift=1.0),
        ("self", "refined"): Curve(slope=1.5, shift=0.0),
    }
    rows = [row for i, (key, c) in enumerate(truth.items()) for row in drawn(*key, c, 8000, i)]
    judged = made(rows)
    fitted = fit_calibration(judged)
    assert fitted.root.keys() == {"logprob", "self"}
    for (source, stage), curve in truth.items():
        found = getattr(fitted.root[source], stage)
        assert (found.slope, found.shift) == pytest.approx((curve.slope, curve.shift), abs=0.15)
    raw, mended = (
        quality(c, judged.right) for c in (judged.confidence, judged.apply_calibration(fitted))
    )
    assert mended["log_loss"] < raw["log_loss"]
    assert mended["ece"] < 0.02
    parts = judged.parts()
    assert {name: len(part) for name, part in parts.items()} == {", ".join(k): 8000 for k in truth}


def test_a_stage_with_few_of_either_kind_takes_the_curve_of_both() -> None:
    truth = Curve(slope=2.0, shift=-1.0)
    proposed = drawn("logprob", "proposed", truth, 2000, 0)
    few = [("logprob", "refined", 0.3, float(i < LEAST - 1)) for i in range(1000)]
    shared = fit_calibration(made(proposed + few)).root["logprob"]
    pooled = fit_curve(*(np.array([row[i] for row in proposed + few]) for i in (2, 3)))
    assert shared.refined == pooled
    assert shared.proposed != shared.refined
    enough = [("logprob", "refined", 0.3, float(i < LEAST)) for i in range(1000)]
    assert fit_calibration(made(proposed + enough)).root["logprob"].refined != shared.refined


def test_a_confidence_that_says_the_opposite_gives_a_flat_curve() -> None:
    """The share of right answers, however sure. Who was surer is never held less likely."""
    rows = [("self", "proposed", 0.1 + 0.8 * (i % 2), 1.0 - i % 2) for i in range(98)]
    fitted = fit_calibration(made(rows)).root["self"].proposed
    assert fitted.slope == 0.0
    assert fitted(0.9) == pytest.approx(0.5)


def test_nothing_to_fit() -> None:
    nothing = judge([], operator.eq)
    assert len(nothing) == 0
    assert fit_calibration(nothing) == Calibration({})
    assert nothing.parts() == {}
    same = fit_calibration(made([("a", "proposed", 0.5, 1.0)] * 50)).root["a"]
    assert same.proposed == same.refined == Curve(slope=1.0, shift=0.0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["proposed", "refined"]), shares, st.booleans())))
def test_whatever_is_judged_gives_curves_that_keep_the_order(rows: list[Any]) -> None:
    judged = made([("x", *row) for row in rows]) if rows else judge([], operator.eq)
    fitted = fit_calibration(judged)
    for part in judged.parts().values():
        applied = part.apply_calibration(fitted)[np.argsort(part.confidence, kind="stable")]
        assert ((applied >= 0) & (applied <= 1)).all()
        assert (np.diff(applied) >= 0).all()


# --- from traces ----------------------------------------------------------------------------


def test_all_responses_with_an_answer_and_a_confidence_are_judged() -> None:
    [episode] = synthetic_episodes(1, seed=5)
    judged = judge([episode], operator.eq)
    valid = [r for r in episode.responses.values() if r["answer"] is not None]
    assert judged.right.tolist() == [float(r["answer"] == episode.reference) for r in valid]
    assert judged.confidence.tolist() == [r["critique"]["confidence"] for r in valid]  # type: ignore[index]
    assert judged.stage.tolist() == [("proposed", "refined")[r["round"] > 0] for r in valid]
    assert set(judged.question) == {episode.question}
    assert len(judge([episode.model_copy(update={"reference": None})], operator.eq)) == 0
    never = judge([episode], operator.eq, {episode.id: "no such answer"})
    assert never.right.sum() == 0
    hint = Intervention(action="hint", round=1, text="not 4", seconds=1.0)
    hinted = judge([episode.model_copy(update={"interventions": [hint]})], operator.eq)
    assert hinted.stage.tolist() == judged.stage[judged.stage == "proposed"].tolist()


def test_a_calibrated_record_is_judged_by_what_the_critic_said() -> None:
    episodes = list(synthetic_episodes(5, seed=1))
    again = judge([recalibrate(e, HARSH) for e in episodes], operator.eq)
    assert again.confidence.tolist() == judge(episodes, operator.eq).confidence.tolist()


def test_traces_are_judged_as_they_are_loaded(tmp_path: Path) -> None:
    """Torn and foreign records are passed over, doubles count once, the split is the same."""
    episodes = list(synthetic_episodes(40, seed=2))
    traces = write_traces(tmp_path / "traces", episodes)
    [segment] = traces.glob("*.jsonl")
    broken = [b"torn {", b"[]", b"7", json.dumps({"schema_version": 99}).encode(), b"{}"]
    wrong = json.loads(episodes[0].to_json())
    wrong |= {"id": "wrong", "responses": {"x": None}}
    segment.write_bytes(b"\n".join([segment.read_bytes(), *broken, json.dumps(wrong).encode()]))
    (traces / "again.jsonl").write_bytes(segment.read_bytes())
    judged = judged_of(read_recorded(traces, operator.eq))
    expected = judge(episodes, operator.eq)
    assert judged.confidence.tolist() == expected.confidence.tolist()
    assert judged.right.tolist() == expected.right.tolist()
    loaded, _ = load(traces, grader=operator.eq, progress=False)
    inside, outside = judged.split(0.3, 7)
    assert len(inside) + len(outside) == len(judged)
    for judged_part, part in zip((inside, outside), split(loaded, 0.3, 7), strict=True):
        assert {loaded.questions[i] for i in part.question} <= set(judged_part.question)
    with pytest.raises(TraceError, match="no traces"):
        read_recorded(tmp_path / "none", operator.eq)


# --- records with another calibration -------------------------------------------------------


class Wavering(Scripted):
    """Says one of three numbers, as likely as the words of the request will have it."""

    def _serve(self, messages: Any, kwargs: Any) -> Any:
        hashed = zlib.crc32(f"{self.model_name} {messages[-1].text}".encode())
        self.logprob = -0.02 - hashed % 97 / 100
        return super()._serve(messages, kwargs)


def say_a_number(request: Request) -> Reply:
    return f"The answer is {zlib.crc32(request.text.encode()) // 97 % 3}"


def deliberate(folder: Path, calibration: Calibration | None, router: Any) -> list[Episode]:
    """The same deliberations whatever the calibration: the router does not look."""
    writer = TraceWriter(folder)
    for number in range(12):
        team = [
            Agent(name, Wavering(reply=say_a_number, model_name=name), system_prompt=name)
            for name in ("ann", "bob", "cy")
        ]
        graph = create_deliberation(
            team,
            router=router(),
            critic="logprob",
            calibration=calibration,
            answer=MathAnswer(),
            max_rounds=2,
            alternatives=1,
            stop_when_settled=False,
            traces=writer,
        ).compile()
        graph.invoke({"question": f"How many in {number}?", "reference": "1"})
    writer.close()
    return list(TraceReader(folder))


def refine_some() -> Any:
    rounds = iter([["REFINE", "PERSIST", "REFINE"], ["PERSIST", "REFINE", "PERSIST"]])
    return lambda observations: next(rounds)


def essence(episode: Episode) -> dict[str, Any]:
    """What must be the same: all but ids, times and what is measured of the call."""
    told = episode.model_dump(include={"turns", "tallies", "options", "representatives"})
    told["critiques"] = {i: r["critique"] for i, r in episode.responses.items()}
    told["options"].pop("router")
    return told


def test_a_raw_record_becomes_what_a_calibrated_graph_records(tmp_path: Path) -> None:
    """And the other way round: training sees the same, however traces were collected."""
    raw = deliberate(tmp_path / "raw", None, refine_some)
    recorded = deliberate(tmp_path / "calibrated", HARSH, refine_some)
    assert [essence(recalibrate(e, HARSH)) for e in raw] == [essence(e) for e in recorded]
    assert [essence(recalibrate(e, Calibration({}))) for e in recorded] == [essence(e) for e in raw]
    assert any(
        a.tallies[k]["cluster"] != b.tallies[k]["cluster"]
        for a, b in zip(raw, recorded, strict=True)
        for k in range(3)
    )
    loaded = [
        load(tmp_path / name, grader=operator.eq, calibration=HARSH, progress=False)[0]
        for name in ("raw", "calibrated")
    ]
    as_recorded = load(tmp_path / "calibrated", grader=operator.eq, progress=False)[0]
    for found in loaded:
        assert np.array_equal(found.own, as_recorded.own)
        assert np.array_equal(found.peers, as_recorded.peers)
        assert np.array_equal(found.global_, as_recorded.global_)
    as_raw = load(tmp_path / "raw", grader=operator.eq, progress=False)[0]
    assert not np.array_equal(as_raw.own, as_recorded.own)
    # What was loaded with a calibration is not taken for the raw columns afterwards.
    assert np.array_equal(
        load(tmp_path / "raw", grader=operator.eq, progress=False)[0].own, as_raw.own
    )


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 5), st.floats(-5, 5), st.floats(0, 5), st.floats(-5, 5))
def test_any_record_can_be_recalibrated(seed: int, a: float, b: float, c: float, d: float) -> None:
    """It stays a sound record, says what is observed, and can be turned back."""
    [episode] = synthetic_episodes(1, seed=seed)
    calibration = of((a, b), (c, d))
    changed = recalibrate(episode, calibration)
    assert Episode.from_json(changed.to_json()) == changed
    assert recalibrate(changed, calibration) == changed
    for before, now in zip(decisions(episode), decisions(changed), strict=True):
        assert now.observation == observations(changed, now.round)[now.agent]
        assert (now.before, now.action, now.mask) == (before.before, before.action, before.mask)
        assert [(m.action, m.taken, m.tokens) for m in now.moves] == [
            (m.action, m.taken, m.tokens) for m in before.moves
        ]
    back = recalibrate(changed, Calibration({}))
    assert back.responses == episode.responses
    assert back.tallies == episode.tallies
    assert back.turns == episode.turns


def test_the_rule_has_to_be_the_records(tmp_path: Path) -> None:
    [episode] = synthetic_episodes(1, seed=3)
    named = episode.model_copy(update={"options": {**episode.options, "consensus": "mine"}})
    with pytest.raises(ConfigurationError, match="rule"):
        recalibrate(named, HARSH)
    tally = {**episode.tallies[0], "cluster": None}
    torn = episode.model_copy(update={"tallies": [tally, *episode.tallies[1:]]})
    with pytest.raises(TraceError, match="round 0"):
        recalibrate(torn, HARSH)


def test_rewards_follow_the_calibrated_weights(tmp_path: Path) -> None:
    """Two guesses outvote a sure answer until the guesses are known as such."""

    def critic(question: str, one: Any) -> float:
        return 0.99 if one["answer"] == "0" else 0.9

    graph = create_deliberation(
        [says(f"The answer is {k}") for k in (0, 1, 1)],
        router="always-persist",
        critic=critic,
        answer=MathAnswer(),
        traces=tmp_path,
    )
    graph.compile().invoke({"question": "How many?", "reference": "0"})
    [episode] = TraceReader(tmp_path)
    curve = {"slope": 4.0, "shift": -12.0}
    known = Calibration.model_validate({"critic": {"proposed": curve, "refined": curve}})
    for one, answer, gain in ((episode, "1", 0), (recalibrate(episode, known), "0", 1)):
        made = decisions(one)
        assert [d.moves[0].consensus for d in made] == [answer] * 3
        assert make_groups([one], operator.eq).global_[0, 0] == gain


# --- agents ----------------------------------------------------------------------------------


def team_of(rates: dict[str, float], count: int, seed: int) -> Judged:
    """Agents that are as sure as each other, and right at rates of their own."""
    rng = np.random.default_rng(seed)
    rows: list[Any] = []
    agents: list[str] = []
    for name, rate in rates.items():
        agents += [name] * count
        confidence = 0.6 + 0.2 * rng.random(count)
        right = (rng.random(count) < rate).astype(float)
        rows += [("logprob", "proposed", c, r) for c, r in zip(confidence, right, strict=True)]
    judged = made(rows)
    judged.agent[:] = agents
    return judged


def test_an_agent_that_is_right_more_often_gets_a_curve_of_its_own() -> None:
    rates = {"ann": 0.3, "bob": 0.5, "cyd": 0.8}
    found = fit_calibration(team_of(rates, 300, 0))
    for name, rate in rates.items():
        curves = found.curves_of("logprob", name)
        assert curves is not None
        assert curves.proposed(0.7) == pytest.approx(rate, abs=0.06)
    assert found.curves_of("logprob", "new") == found.root["logprob"]
    assert found.curves_of("self", "ann") is None


def test_few_answers_move_a_curve_little_and_like_agents_share_one() -> None:
    few = team_of({"ann": 0.5, "bob": 0.5, "cyd": 0.5, "dan": 1.0}, 4, 1)
    large = team_of({"ann": 0.5, "bob": 0.5, "cyd": 0.5, "dan": 1.0}, 400, 1)
    shares = [fit_calibration(one).curves_of("logprob", "dan") for one in (few, large)]
    assert all(shares)
    assert 0.3 < shares[0].proposed(0.7) < 0.9 < shares[1].proposed(0.7)  # type: ignore[union-attr]
    alone = fit_calibration(team_of({"ann": 0.5}, 300, 2))
    assert list(alone.root) == ["logprob"]
    apart = []
    for seed in range(20):
        alike = fit_calibration(team_of({"ann": 0.5, "bob": 0.5, "cyd": 0.5}, 300, seed))
        pooled = alike.root["logprob"].proposed(0.7)
        apart += [abs(curves.proposed(0.7) - pooled) for curves in alike.root.values()]
    assert np.mean(apart) < 0.02
