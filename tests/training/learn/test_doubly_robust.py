"""Whole deliberations from traces: unbiased, with intervals that cover, else unknown."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest

from training.learn import doubly_robust
from training.learn.doubly_robust import (
    LEAST_EFFECTIVE_SAMPLE,
    estimates,
    realised_worth,
    whole_episodes,
)
from training.learn.episode_rows import OF_RESPONSE
from training.learn.joint import Floats, Joint
from training.learn.joint_rounds import count, group_right
from training.learn.measures import mean_interval
from training.learn.values import Values

AGENTS, SAMPLES = 2, 3
#: Responses: none, then right and unsure, right and sure, wrong and unsure, wrong and sure.
RIGHT = np.array([False, True, True, False, False])
CONFIDENCE = np.array([-1.0, 0.4, 0.8, 0.4, 0.8])
REFINE_TOKENS = 100.0


def refined(held: np.ndarray, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw refinements: better the more of the team is right, and sure if the team was sure."""
    chance = 0.35 + 0.5 * RIGHT[held].mean(1)
    sure = 0.3 + 0.5 * (CONFIDENCE[held] > 0.5).mean(1)
    right = rng.random(shape) < chance.reshape(-1, *[1] * (len(shape) - 1))
    high = rng.random(shape) < sure.reshape(-1, *[1] * (len(shape) - 1))
    return np.where(right, 1, 3) + high


def mild(held: np.ndarray) -> Floats:
    """Mostly refines where the agent is unsure, and mostly persists where it is sure."""
    refine = np.where(CONFIDENCE[held] < 0.5, 0.8, 0.1)
    return np.stack([1 - refine, refine, np.zeros_like(refine)], -1)


def greedy(held: np.ndarray) -> Floats:
    """Refines where the agent is unsure: one of four random episodes goes on like that."""
    return np.eye(3)[(CONFIDENCE[held] < 0.5).astype(int)]


Router = Callable[[np.ndarray], Floats]


def play(
    count: int, seed: int, router: Router = mild, *, on_policy: bool = False
) -> tuple[Joint, Floats]:
    """Return episodes of two rounds, and the router's probabilities at their states."""
    rng = np.random.default_rng(seed)
    held = np.where(rng.random((count, AGENTS)) < 0.5, 1, 3) + (rng.random((count, AGENTS)) < 0.5)
    episode = np.arange(count)
    parts = []
    for round_ in (1, 2):
        policy = router(held)
        behaviour = policy if on_policy else np.broadcast_to([0.5, 0.5, 0.0], policy.shape)
        moves = np.concatenate(
            [held[:, :, None], refined(held, rng, (len(held), AGENTS, SAMPLES))], 2
        )
        refine = rng.random((len(held), AGENTS)) < behaviour[:, :, 1]
        taken = refine.astype(int)
        parts.append((episode, round_, held, moves, taken, behaviour))
        after = np.take_along_axis(moves, taken[:, :, None], 2)[:, :, 0]
        agree = RIGHT[after].all(1) | ~RIGHT[after].any(1)
        goes_on = ~agree & refine.any(1)
        held, episode = after[goes_on], episode[goes_on]
    agreed = RIGHT[parts[0][2]].all(1) | ~RIGHT[parts[0][2]].any(1)
    chosen = [~agreed[part[0]] for part in parts]  # who agree at first have no decision

    def joined(place: int) -> np.ndarray:
        return np.concatenate([part[place][ok] for part, ok in zip(parts, chosen, strict=True)])

    before = joined(2)
    size = len(before)
    rounds = np.concatenate([np.full(ok.sum(), p[1]) for p, ok in zip(parts, chosen, strict=True)])
    static = np.zeros((5, len(OF_RESPONSE)), np.float32)
    static[:, OF_RESPONSE.index("confidence")] = CONFIDENCE.clip(0)
    action = np.broadcast_to([0] + [1] * SAMPLES, (size, AGENTS, 1 + SAMPLES))
    return Joint(
        static=static,
        cluster=np.array([0, 1, 1, 2, 2]),
        confidence=CONFIDENCE,
        author=np.zeros(5, int),
        right=RIGHT,
        correct=RIGHT,
        episode=joined(0),
        before=before,
        previous=np.full((size, AGENTS), -1),
        moves=joined(3),
        action=np.array(action),
        tokens=np.where(action == 1, REFINE_TOKENS, 0.0),
        taken=joined(4),
        mask=np.ones((size, AGENTS, 3), bool),
        behaviour=joined(5),
        competence=np.full((size, AGENTS), 0.5),
        round=rounds,
        left=3 - rounds,
        cut=np.zeros(size, bool),
        size=np.full(count, AGENTS),
        weight=np.zeros(5),
        pair=np.zeros((1, AGENTS, AGENTS)),
        pairs=np.zeros(count, int),
        rule=np.tile([0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0], (count, 1)),
    ), router(before)


@cache
def truth(router: Router = mild) -> tuple[float, float, float]:
    """What the router gives where it runs itself, in open episodes.

    Returns:
        Its accuracy, its gain over the vote, and its tokens.
    """
    joint, _ = play(60_000, 99, router, on_policy=True)
    right, tokens = realised_worth(joint)
    first = np.flatnonzero(joint.round == 1)
    vote = group_right(joint, joint.before[first], count(joint, first, joint.before[first]))
    right = right[first]
    return float(right.mean()), float((right - vote).mean()), float(tokens[first].mean())


@pytest.fixture(scope="module")
def fitted() -> Values:
    return Values(*play(1500, 7))


@pytest.fixture(scope="module")
def wrong() -> Values:
    """V of a policy that nobody estimates, fitted on a handful of episodes."""
    return Values(*play(40, 8))


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take fewer draws: the tests repeat estimates hundreds of times."""
    monkeypatch.setattr(doubly_robust, "_DRAWS", 4)
    monkeypatch.setattr(doubly_robust, "mean_interval", partial(mean_interval, samples=300))


@pytest.mark.parametrize("router", [mild, greedy])
@pytest.mark.parametrize("model", ["fitted", "wrong"])
def test_it_covers_the_truth_as_often_as_it_says(
    router: Router, model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_quick(monkeypatch)
    values = request.getfixturevalue(model)
    gain = truth(router)[1]
    inside, found, widths = 0, [], []
    for seed in range(300):
        joint, policy = play(200, 1000 + seed, router)
        one = whole_episodes(joint, values, policy, joint.episode, seed=seed).against_vote
        assert one is not None
        inside += one.low <= gain <= one.high
        found.append(one.mean)
        widths.append(one.high - one.low)
    assert inside >= 0.93 * 300
    assert np.mean(found) == pytest.approx(gain, abs=3 * np.std(found) / 300**0.5 + 0.005)
    # No wider than it has to be: half as much again as the estimates spread.
    assert np.mean(widths) < 1.5 * 2 * 1.96 * np.std(found)


def test_it_covers_the_truth_with_hardly_more_than_the_least_effective_sample(
    fitted: Values, wrong: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four is enough: V is right in the mean or the width says so. With fewer it says nothing."""
    be_quick(monkeypatch)
    gain = truth(mild)[1]
    inside = told = 0
    for seed in range(300):
        joint, policy = play(60, 1000 + seed, mild)
        for values in (fitted, wrong):
            found = whole_episodes(joint, values, policy, joint.episode, seed=seed)
            if (one := found.against_vote) is None:
                assert found.effective_sample < LEAST_EFFECTIVE_SAMPLE
                continue
            assert LEAST_EFFECTIVE_SAMPLE <= found.effective_sample < 20
            told += 1
            inside += one.low <= gain <= one.high
    assert told > 400
    assert inside >= 0.93 * told


def test_a_wrong_model_does_not_bias_it(fitted: Values, wrong: Values) -> None:
    """The weights mend what V gets wrong: here V of everything is the network of another seed."""
    joint, policy = play(6000, 5)
    first = joint.round == 1
    accuracy, _, tokens = truth()
    found = estimates(joint, wrong, policy)
    assert found.unseen == 0
    assert found.right[first].mean() == pytest.approx(accuracy, abs=0.03)
    assert found.tokens[first].mean() == pytest.approx(tokens, abs=4)
    vote = whole_episodes(joint, fitted, policy, joint.episode)
    assert vote.against_vote is not None
    assert vote.against_vote.low > 0


def test_few_episodes_that_went_on_like_it_make_it_less_sure(fitted: Values) -> None:
    sure, unsure = (
        whole_episodes(joint, fitted, policy, joint.episode)
        for joint, policy in (play(400, 3, mild), play(400, 3, greedy))
    )
    assert sure.against_vote is not None
    assert unsure.against_vote is not None
    assert unsure.effective_sample < sure.effective_sample
    widths = [one.high - one.low for one in (sure.against_vote, unsure.against_vote)]
    assert widths[0] < widths[1]


def test_what_it_cannot_say_is_unknown(fitted: Values) -> None:
    joint, policy = play(4, 1)
    assert "effective sample" in whole_episodes(joint, fitted, policy, joint.episode).unknown
    joint, policy = play(600, 1)
    joint.behaviour = np.broadcast_to([0.99, 0.0, 0.01], joint.behaviour.shape)
    joint.taken = np.zeros_like(joint.taken)
    assert "never makes" in whole_episodes(joint, fitted, policy, joint.episode).unknown
    none = joint.select(np.zeros(0, int))
    assert "no episodes" in whole_episodes(none, fitted, policy[:0], none.episode).unknown
