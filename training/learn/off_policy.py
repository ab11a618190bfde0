"""What a router would give, estimated from stored traces before it is ever run.

*One turn*: PERSIST and CONCEDE are known exactly with the peers held at what they did, REFINE is
the mean of its samples. *Whole episodes*: doubly robust importance sampling, where the behaviour
policy's own decisions match often enough to say anything.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.state import ACTIONS
from training.learn.dataset import Groups
from training.learn.measures import Interval, mean_interval

Array = NDArray[np.float64]
LEAST_EFFECTIVE_SAMPLE = 100.0
"""Below this effective sample size a whole-episode estimate is not worth its interval."""
LEAST_QUESTIONS = 50
"""Of a measurement that may set a gate: the bootstrap interval of three that gain is [1, 1]."""
MOST_UNSEEN = 0.01
"""Decisions an episode, in the mean, that the traces' policy never makes: they have no weight in
a whole-episode estimate, so that more of them would bias it."""


def action_means(groups: Groups, values: NDArray[Any]) -> Array:
    """Return the mean of a per-rollout value by action.

    Args:
        groups: ``G`` groups of up to ``K`` rollouts.
        values: Shape ``[G, K]``.

    Returns:
        Shape ``[G, 3]``. It is NaN if an action has no rollout.
    """
    means = np.full((len(groups), len(ACTIONS)), np.nan)
    for action in range(len(ACTIONS)):
        chosen = groups.rollout_mask & (groups.actions == action)
        count = chosen.sum(1)
        total = np.where(chosen, values, 0).sum(1, dtype=np.float64)
        means[:, action] = np.divide(total, count, out=means[:, action].copy(), where=count > 0)
    return means


def expect(means: Array, probabilities: Array) -> Array:
    """Return the expected value of each group under action probabilities, both ``[G, 3]``.

    An allowed action without a rollout (a REFINE of which every sample failed) is left out and
    the others take its probability.
    """
    known = ~np.isnan(means)
    weight = np.where(known, probabilities, 0.0)
    total = weight.sum(1, keepdims=True)
    # All of it on an unknown action: spread over what is known.
    weight = np.where(
        total > 0, weight / np.where(total > 0, total, 1), known / known.sum(1)[:, None]
    )
    return np.asarray((weight * np.where(known, means, 0.0)).sum(1))


@dataclass(frozen=True)
class OneTurn:
    """A one-turn estimate on held-out groups, per turn.

    Attributes:
        reward: Expected reward under the router.
        against_vote: The difference of the group's accuracy to persisting (as a vote does).
        against_behaviour: The same to the policy that made the traces.
        own: Difference to persisting of the agent's own accuracy.
        tokens: Expected tokens of a turn.
        actions: Mean probability of PERSIST, REFINE, CONCEDE.
        actions_disagreeing: The same over turns whose team disagrees.
    """

    reward: Interval
    against_vote: Interval
    against_behaviour: Interval
    own: Interval
    tokens: float
    actions: list[float]
    actions_disagreeing: list[float]


def one_turn(groups: Groups, probabilities: Array, rewards: NDArray[Any], seed: int = 0) -> OneTurn:
    """Estimate a router turn by turn.

    Args:
        groups: Held-out groups.
        probabilities: The router's, shape ``[G, 3]``, masked.
        rewards: Shape ``[G, K]``.
        seed: Of the bootstrap.
    """
    group_right = action_means(groups, groups.consensus)
    own_right = action_means(groups, groups.correct)
    gain = expect(group_right, probabilities)
    disagreeing = groups.disagreement
    mean_actions = probabilities.mean(0) if len(groups) else np.full(3, np.nan)
    return OneTurn(
        reward=mean_interval(
            expect(action_means(groups, rewards), probabilities), groups.question, seed=seed
        ),
        against_vote=mean_interval(gain - group_right[:, 0], groups.question, seed=seed),
        against_behaviour=mean_interval(
            gain - expect(group_right, groups.behaviour.astype(float)),
            groups.question,
            seed=seed,
        ),
        own=mean_interval(
            expect(own_right, probabilities) - own_right[:, 0], groups.question, seed=seed
        ),
        tokens=float(expect(action_means(groups, groups.tokens), probabilities).mean()),
        actions=mean_actions.tolist(),
        actions_disagreeing=probabilities[disagreeing].mean(0).tolist()
        if disagreeing.any()
        else [float("nan")] * 3,
    )


@dataclass(frozen=True)
class WholeEpisodes:
    """A doubly robust estimate of whole deliberations.

    Attributes:
        effective_sample: Kish's effective sample size of the importance weights.
        against_vote: Difference in accuracy to the plain vote of the proposals. None: unknown,
            for the reason that `unknown` gives.
        against_behaviour: The same to the policy that made the traces.
        unknown: Why there is no estimate. It is empty if there is one.
    """

    effective_sample: float
    against_vote: Interval | None = None
    against_behaviour: Interval | None = None
    unknown: str = ""


def whole_episodes(groups: Groups, probabilities: Array, seed: int = 0) -> WholeEpisodes:
    """Estimate whole deliberations by weighted importance sampling with a control variate.

    Every episode is weighted by the product over its turns of π(a|o) / b(a|o). What the plain
    vote of an episode's proposals gives is known whatever was decided later, so only the
    difference to it is weighted (the doubly robust form of Jiang & Li 2016, with the vote as
    the value model): where deliberating never changes the vote, the estimate is 0 with no
    variance. It says nothing where it cannot: few episodes went as the router would have it, or
    the router does what the traces' policy never did. Episodes without a decision are left out.

    Args:
        groups: All turns of the held-out episodes.
        probabilities: The router's, shape ``[G, 3]``.
        seed: Of the bootstrap.
    """
    ids, index = np.unique(groups.episode, return_inverse=True)
    if not len(ids):
        return WholeEpisodes(0.0, unknown="there are no episodes with a decision")
    taken = (np.arange(len(groups)), groups.taken)
    with np.errstate(divide="ignore"):
        ratio = np.log(probabilities[taken]) - np.log(groups.behaviour[taken].astype(float))
    weight = np.exp(np.bincount(index, np.maximum(ratio, -1e3)))
    never = np.where(groups.behaviour > 0, 0.0, probabilities).sum(1)
    gain = groups.outcomes.final[ids].astype(float) - groups.outcomes.vote[ids].astype(float)
    total = weight.sum()
    effective = float(total**2 / (weight**2).sum()) if total > 0 else 0.0
    if effective < LEAST_EFFECTIVE_SAMPLE:
        return WholeEpisodes(
            effective,
            unknown=f"effective sample {effective:.0f}, {LEAST_EFFECTIVE_SAMPLE:.0f} needed",
        )
    if (often := float(np.bincount(index, never).mean())) > MOST_UNSEEN:
        return WholeEpisodes(
            effective,
            unknown=f"{often:.2f} decisions of an episode are such as the traces' policy never "
            "makes: collect with a router that explores",
        )
    first = np.full(len(ids), -1, dtype=np.int64)
    first[index] = groups.question
    estimate = float((gain * weight).sum() / total)
    # Its mean is the estimate, and its spread that of a ratio of two sums (delta method).
    each = estimate + weight / weight.mean() * (gain - estimate)
    return WholeEpisodes(
        effective,
        mean_interval(each, first, seed=seed),
        mean_interval(each - gain, first, seed=seed),
    )


def to_plain(value: Any) -> Any:
    """Return a dataclass of this module as plain data for JSON. NaN becomes None."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
