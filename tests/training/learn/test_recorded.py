"""Recorded traces with another calibration or consensus: as if they had been recorded so."""

import operator
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph import Calibration, Episode, LearnedConsensus
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import Shared
from tests.support.counterfactuals import decisions
from tests.support.synthetic import synthetic_episodes
from training.learn.ballots import ballots_of
from training.learn.dataset import groups_of, make_groups
from training.learn.joint import Joint
from training.learn.recalibrate import recalibrate
from training.learn.recorded import joint_of, record

RULES = ["confidence", "majority", "log-odds"]
weights = st.floats(-3, 3).map(lambda w: round(w, 2))


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
    agents = draw(st.integers(1, 4))
    given_ = {
        "agents": agents,
        "rounds": draw(st.integers(1, 3)),
        "alternatives": draw(st.integers(0, 2)),
        "consensus": draw(st.sampled_from(RULES)),
    }
    episodes = list(synthetic_episodes(3, draw(st.integers(0, 10**6)), **given_))
    names = episodes[0].team
    episodes[0] = episodes[0].model_copy(update={"category": "sums"})
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
        peers = np.array(one.observation["peers"]).reshape(groups.peers[i].shape)
        assert groups.peers[i] == pytest.approx(peers, abs=1e-6)
    if consensus is None:
        ballots = ballots_of(recorded, calibration)
        told = [tally["answer"] == e.reference for e in changed for tally in e.tallies]
        assert ballots.recorded.tolist() == told


def assert_same(found: Joint, expected: Joint) -> None:
    for one in fields(Joint):
        ours, theirs = getattr(found, one.name), getattr(expected, one.name)
        assert ours == pytest.approx(theirs, abs=1e-9), one.name


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
