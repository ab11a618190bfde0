"""Estimates of one turn, as by hand, and honest intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.toy_groups import Toy, toy_groups
from training.learn.doubly_robust import WholeEpisodes
from training.learn.measures import Interval, mean_interval
from training.learn.off_policy import expect, one_turn, to_plain


@st.composite
def rollouts(draw):
    """One PERSIST, up to three REFINEs and perhaps a CONCEDE."""
    actions = [0] + [1] * draw(st.integers(0, 3)) + [2] * draw(st.integers(0, 1))
    gains = st.sampled_from([-1.0, 0.0, 1.0])
    return [
        Toy(a, draw(gains), draw(gains), draw(st.integers(0, 900)), draw(st.booleans()),
            draw(st.booleans()))
        for a in actions
    ]  # fmt: skip


@st.composite
def cases(draw):
    """Groups, questions, and probabilities over the actions that have a rollout."""
    made = draw(st.lists(rollouts(), min_size=1, max_size=8))
    questions = np.array([draw(st.integers(0, 3)) for _ in made])
    disagreement = np.array([draw(st.booleans()) for _ in made])
    groups = toy_groups(made, question=questions, disagreement=disagreement)
    raw = np.array([[draw(st.floats(0.01, 1)) for _ in range(3)] for _ in made])
    raw = raw * groups.action_mask
    return made, groups, raw / raw.sum(1, keepdims=True)


def by_hand(group, probabilities, value):
    """The expected value of one group: each action's mean, times its probability."""
    total = 0.0
    for action in range(3):
        values = [value(r) for r in group if r.action == action]
        if values:
            total += probabilities[action] * sum(values) / len(values)
    return total


@settings(max_examples=60)
@given(cases())
def test_one_turn_is_what_a_hand_computes(case):
    made, groups, probabilities = case
    rewards = groups.local + 2 * groups.global_
    found = one_turn(groups, probabilities, rewards)

    def mean(value, p):
        return np.mean([by_hand(g, row, value) for g, row in zip(made, p, strict=True)])

    persisting = np.tile([1.0, 0.0, 0.0], (len(made), 1))
    behaviour = groups.behaviour.astype(float)
    consensus, correct = (lambda r: r.consensus), (lambda r: r.correct)
    gain = mean(consensus, probabilities)
    expectations = {
        "reward": mean(lambda r: r.local + 2 * r.global_, probabilities),
        "against_vote": gain - mean(consensus, persisting),
        "against_behaviour": gain - mean(consensus, behaviour),
        "own": mean(correct, probabilities) - mean(correct, persisting),
    }
    for name, value in expectations.items():
        interval = getattr(found, name)
        assert interval.mean == pytest.approx(value, abs=1e-6)
        assert interval.low <= interval.mean + 1e-9
        assert interval.mean <= interval.high + 1e-9
        assert interval.questions == len(set(groups.question.tolist()))
    assert found.tokens == pytest.approx(mean(lambda r: r.tokens, probabilities), abs=1e-3)
    assert found.actions == pytest.approx(probabilities.mean(0).tolist())
    contested = probabilities[groups.disagreement]
    if len(contested):
        assert found.actions_disagreeing == pytest.approx(contested.mean(0).tolist())
    else:
        assert all(math.isnan(share) for share in found.actions_disagreeing)


def test_always_persisting_is_exactly_the_vote():
    groups = toy_groups([[Toy(0, consensus=True), Toy(1)], [Toy(0), Toy(1, consensus=True)]])
    found = one_turn(groups, np.tile([1.0, 0, 0], (2, 1)), groups.local)
    assert found.against_vote == Interval(0, 0, 0, 2)
    assert found.own == Interval(0, 0, 0, 2)


def test_an_allowed_action_without_a_rollout_is_left_out():
    groups = toy_groups([[Toy(0, 1.0), Toy(2, 3.0)]] * 2)
    means = groups.action_means(groups.local)
    assert np.array_equal(means, [[1, np.nan, 3]] * 2, equal_nan=True)
    # The other two share what REFINE had, in proportion, or evenly where REFINE had all.
    found = expect(means, np.array([[0.2, 0.2, 0.6], [0.0, 1.0, 0.0]]))
    assert found == pytest.approx([0.25 * 1 + 0.75 * 3, 2.0])


# --- intervals ------------------------------------------------------------------------------


def test_clustered_takes_all_values_alike_and_repeats_itself():
    values, question = np.array([1.0, 2, 3, 10]), np.array([7, 7, 7, 9])
    found = mean_interval(values, question)
    assert found.mean == 4.0
    assert (found.low, found.high, found.questions) == (2.0, 10.0, 2)
    assert mean_interval(values, question) == found
    assert math.isnan(mean_interval(np.array([]), np.array([])).mean)
    assert str(Interval(0.5, -0.25, 1.0, 3)) == "+0.5000 [-0.2500, +1.0000] (n = 3)"


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = {"clustered": 0, "as if independent": 0}
    for _ in range(400):
        sizes = rng.integers(1, 6, 60)
        question = np.repeat(np.arange(60), sizes)
        values = 0.3 + rng.normal(size=60)[question] + 0.5 * rng.normal(size=len(question))
        for name, unit in (
            ("clustered", question),
            ("as if independent", np.arange(len(question))),
        ):
            found = mean_interval(values, unit, samples=300, seed=1)
            covered[name] += found.low <= 0.3 <= found.high
    assert 0.90 <= covered["clustered"] / 400 <= 0.98
    assert covered["as if independent"] / 400 < 0.85


def test_plain_data_for_json():
    whole = WholeEpisodes(math.nan, Interval(1.0, -math.inf, 2.0, 3))
    assert to_plain({"a": (whole, [1, "x"])}) == {
        "a": [
            {
                "effective_sample": None,
                "against_vote": {"mean": 1.0, "low": None, "high": 2.0, "questions": 3},
                "against_behaviour": None,
                "tokens": None,
                "against_choice": None,
                "unknown": "",
            },
            [1, "x"],
        ]
    }
