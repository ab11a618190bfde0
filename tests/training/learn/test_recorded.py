"""Recorded traces with another calibration or consensus: as if they had been recorded so."""

import operator
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph import Calibration, Episode, LearnedConsensus
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.learned_consensus import Shared
from mpdf_langgraph.observation import FEATURES, INDEX
from mpdf_langgraph.state import Response
from tests.support.counterfactuals import decisions
from tests.support.synthetic import synthetic_episodes
from tests.support.written import write_traces
from training.learn.ballots import ballots_of
from training.learn.dataset import groups_of, make_groups
from training.learn.joint import Joint
from training.learn.joint_calibration import joint_of
from training.learn.recalibrate import rebuild, recalibrate, with_responses
from training.learn.recorded import read_recorded, record
from training.learn.rewards import rule_of

RULES = ["confidence", "majority", "log-odds"]
weights = st.floats(-3, 3).map(lambda w: round(w, 1))


@st.composite
def consensuses(draw: st.DrawFn, names: list[str]) -> LearnedConsensus:
    """A consensus of any weights, which may not know the last agent."""
    known = names[: draw(st.integers(max(1, len(names) - 1), len(names)))]
    size = len(known)
    pairs = np.zeros((size, size))
    for a in range(size):
        for b in range(a):
            pairs[a, b] = pairs[b, a] = draw(weights)

    def row() -> tuple[float, ...]:
        return tuple(draw(weights) for _ in known)

    return LearnedConsensus(
        shared=Shared(**{name: draw(weights) for name in Shared.model_fields}),
        agents=tuple(known),
        votes=row(),
        pairs=tuple(map(tuple, pairs.tolist())),
        categories={"sums": row()},
    )


@st.composite
def calibrations(draw: st.DrawFn, names: list[str]) -> Calibration:
    def curves() -> dict[str, dict[str, float]]:
        return {
            stage: {"slope": abs(draw(weights)), "shift": draw(weights)}
            for stage in ("proposed", "refined")
        }

    own = {f"logprob@{name}": curves() for name in draw(st.sets(st.sampled_from(names)))}
    return Calibration.model_validate({"logprob": curves(), **own})


@st.composite
def some_episodes(draw: st.DrawFn) -> tuple[list[Episode], list[str]]:
    """Episodes of teams of one or two sizes, some with equal and some without confidences."""
    options: dict[str, Any] = {
        "rounds": draw(st.integers(1, 3)),
        "alternatives": draw(st.integers(0, 2)),
        "consensus": draw(st.sampled_from(RULES)),
    }
    seed = draw(st.integers(0, 10**6))
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=2))
    episodes = [e for n in sizes for e in synthetic_episodes(2, seed, agents=n, **options)]
    episodes = [e.model_copy(update={"id": str(i)}) for i, e in enumerate(episodes)]
    names = max((e.team for e in episodes), key=len)
    episodes[0] = episodes[0].model_copy(update={"category": "sums"})
    unknown = draw(st.sampled_from([0.0, 0.3, 1.0]))
    chance = random.Random(seed)

    def coarse(response: Response) -> Response:
        critique = response["critique"]
        assert critique is not None
        known = None if chance.random() < unknown else round(critique["confidence"] or 0.0, 1)
        return Response({**response, "critique": {**critique, "confidence": known}})

    if draw(st.booleans()):
        episodes = [rebuild(with_responses(e, coarse), rule_of(e)) for e in episodes]
    if draw(st.booleans()):  # recorded with a consensus of their own
        fitted = draw(consensuses(names))
        episodes = [recalibrate(e, Calibration({}), fitted) for e in episodes]
    return episodes, names


@pytest.mark.filterwarnings("ignore:the learned consensus does not know")
@given(st.data())
def test_it_is_as_if_the_episodes_had_been_recorded_so(data: st.DataObject) -> None:
    episodes, names = data.draw(some_episodes())
    calibration = data.draw(st.none() | calibrations(names))
    consensus = data.draw(st.none() | consensuses(names))
    recorded = record(episodes, operator.eq)
    joint = joint_of(recorded, calibration, consensus)
    changed = episodes
    if calibration is not None or consensus is not None:
        changed = [recalibrate(e, calibration or Calibration({}), consensus) for e in episodes]
    assert_same(joint, record(changed, operator.eq).joint)
    groups = groups_of(recorded, joint)
    made = [(episode, one) for episode in changed for one in decisions(episode)]
    assert len(groups) == len(made)
    for i, (episode, one) in enumerate(made):
        right = [move.consensus == episode.reference for move in one.moves]
        assert groups.consensus[i, : len(right)].tolist() == right
        gain = [r - (one.without == episode.reference) for r in right]
        assert groups.global_[i, : len(right)].tolist() == gain
        assert groups.own[i] == pytest.approx(one.observation["own"], abs=1e-6)
        peers = np.array(one.observation["peers"]).reshape(-1, len(FEATURES))
        assert groups.peers[i, : len(peers)] == pytest.approx(peers, abs=1e-6)
        assert groups.peer_mask[i].tolist() == [k < len(peers) for k in range(len(groups.peers[i]))]
    if consensus is None:
        ballots = ballots_of(recorded, calibration)
        told = [tally["answer"] == e.reference for e in changed for tally in e.tallies]
        assert ballots.recorded.tolist() == told


def assert_same(found: Joint, expected: Joint) -> None:
    for one in fields(Joint):
        if one.name not in ("pair", "pairs"):
            ours, theirs = getattr(found, one.name), getattr(expected, one.name)
            assert ours == pytest.approx(theirs, abs=1e-9), one.name
    for ours, theirs, size in zip(
        found.pair[found.pairs], expected.pair[expected.pairs], found.size, strict=True
    ):
        assert ours[:size, :size] == pytest.approx(theirs[:size, :size], abs=1e-9)


def test_a_callable_counts_as_it_was_recorded() -> None:
    """Its votes can be learned from, and its turns cannot."""
    [plain] = synthetic_episodes(1, rounds=2)
    tallies = [{**tally, "answer": "5", "cluster": 0} for tally in plain.tallies]
    options = {**plain.options, "consensus": "of_my_own"}
    own = plain.model_copy(update={"options": options, "tallies": tallies})
    right = own.representatives[0] == own.reference
    recorded = record([own], operator.eq)
    assert ballots_of(recorded).recorded.tolist() == [right] * 3
    with pytest.raises(ConfigurationError, match="'of_my_own', which is not built in"):
        groups_of(recorded, joint_of(recorded))


def test_a_category_that_nobody_knows_counts_for_nothing() -> None:
    [plain] = synthetic_episodes(1, rounds=1)
    fitted = LearnedConsensus(
        shared=Shared(**dict.fromkeys(Shared.model_fields, 0.0)),
        agents=tuple(plain.team),
        votes=(0.0,) * 3,
        pairs=((0.0,) * 3,) * 3,
        categories={"": (1.0, 2.0, 3.0), "sums": (4.0, 5.0, 6.0)},
    )
    scores = {}
    for category in (None, "", "sums", "other"):
        recorded = record([plain.model_copy(update={"category": category})], operator.eq)
        scores[category] = joint_of(recorded, None, fitted).weight[1:4].tolist()
    answered = recorded.joint.cluster[1:4] > 0
    assert scores[None] == scores["other"] == [0.0] * 3
    assert scores[""] == (np.array([1.0, 2.0, 3.0]) * answered).tolist()
    assert scores["sums"] == (np.array([4.0, 5.0, 6.0]) * answered).tolist()


def test_a_prior_competence_that_is_not_known_is_a_half() -> None:
    [episode] = synthetic_episodes(1)
    for agent in episode.agents:
        agent["competence"] = None
    assert (record([episode], operator.eq).joint.competence == 0.5).all()
    assert len(make_groups([episode], operator.eq)) == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"settle_confidence": "high"}},
        {"options": {"settle_confidence": {}}},
        {"options": {"max_rounds": "many"}},
        {"agents": [], "turns": [], "responses": {}},
        {"turns": [], "responses": {}, "tallies": []},
    ],
)
def test_a_record_that_nobody_can_learn_from_costs_itself_alone(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    sound, plain = synthetic_episodes(2)
    changes = {**changes, "options": {**plain.options, **changes.get("options", {})}}
    odd = plain.model_copy(update=changes)
    with pytest.raises(TraceError, match="episode"):
        record([odd], operator.eq)
    write_traces(tmp_path, [sound, odd])
    for _ in range(2):
        found = read_recorded(tmp_path, operator.eq)
        assert found.ids == [sound.id]
        assert found.reading.dropped == {"contradictory": 1}
        assert len(groups_of(found, joint_of(found))) == 9


def test_large_numbers_are_kept() -> None:
    """Rounds without a limit, and more alternatives than a byte counts."""
    [plain] = synthetic_episodes(1, rounds=1, alternatives=130)
    options = {**plain.options, "max_rounds": 10**6}
    groups = make_groups([plain.model_copy(update={"options": options})], operator.eq)
    expected = [len(one.moves) for one in decisions(plain)]
    assert groups.rollout_mask.sum(1).tolist() == expected
    assert max(expected) > 130
    assert (groups.own[:, INDEX["rounds_left"]] == 1).all()


def test_a_large_team_beside_small_ones_changes_nothing_for_them() -> None:
    small = list(synthetic_episodes(3, alternatives=1))
    large = next(synthetic_episodes(1, 9, agents=12, rounds=1))
    alone, both = make_groups(small, operator.eq), make_groups([*small, large], operator.eq)
    same = both.episode < 3
    assert (both.global_[same, :4] == alone.global_).all()
    assert (both.peers[same, :2] == alone.peers).all()
    assert not both.peers[same, 2:].any()
    assert (both.peer_mask[~same].sum(1) == 11).all()
