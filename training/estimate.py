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
from training.dataset import Groups

Array = NDArray[np.float64]
LEAST_EFFECTIVE_SAMPLE = 100.0
"""Below this effective sample size a whole-episode estimate is not worth its interval."""


@dataclass(frozen=True)
class Interval:
    """A mean over questions with its bootstrap interval (95 %).

    Attributes:
        mean: The estimate.
        low: 2.5th percentile over resampled questions.
        high: 97.5th percentile.
        questions: How many questions were resampled.
    """

    mean: float
    low: float
    high: float
    questions: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}] (n = {self.questions})"


def clustered(
    values: Array, question: NDArray[Any], *, samples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of `values` with an interval from resampling whole questions.

    Args:
        values: One number per turn or episode, shape ``[n]``.
        question: Which question each belongs to, shape ``[n]``; turns of one question are not
            independent.
        samples: Bootstrap resamples.
        seed: Of the resampling.
    """
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    _, index = np.unique(question, return_inverse=True)
    sums, sizes = np.bincount(index, values), np.bincount(index)
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for k in range(samples):
        drawn = rng.integers(0, len(sums), len(sums))
        means[k] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(sums.sum() / sizes.sum()), float(low), float(high), len(sums))


def action_means(groups: Groups, values: NDArray[Any]) -> Array:
    """Return the mean of a per-rollout value by action.

    Args:
        groups: ``G`` groups of up to ``K`` rollouts.
        values: Shape ``[G, K]``.

    Returns:
        Shape ``[G, 3]``; NaN where an action has no rollout.
    """
    means = np.full((len(groups), len(ACTIONS)), np.nan)
    for action in range(len(ACTIONS)):
        chosen = groups.rollout_mask & (groups.actions == action)
        count = chosen.sum(1)
        total = np.where(chosen, values, 0).sum(1, dtype=np.float64)
        means[:, action] = np.divide(total, count, out=means[:, action].copy(), where=count > 0)
    return means


def expected(means: Array, probabilities: Array) -> Array:
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
    gain = expected(group_right, probabilities)
    disagreeing = groups.disagreement
    mean_actions = probabilities.mean(0) if len(groups) else np.full(3, np.nan)
    return OneTurn(
        reward=clustered(
            expected(action_means(groups, rewards), probabilities), groups.question, seed=seed
        ),
        against_vote=clustered(gain - group_right[:, 0], groups.question, seed=seed),
        against_behaviour=clustered(
            gain - expected(group_right, groups.behaviour.astype(float)),
            groups.question,
            seed=seed,
        ),
        own=clustered(
            expected(own_right, probabilities) - own_right[:, 0], groups.question, seed=seed
        ),
        tokens=float(expected(action_means(groups, groups.tokens), probabilities).mean()),
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
        against_vote: Difference in accuracy to the plain vote of the proposals; None: unknown,
            because the effective sample is below 100.
        against_behaviour: The same to the policy that made the traces.
    """

    effective_sample: float
    against_vote: Interval | None
    against_behaviour: Interval | None


def whole_episodes(groups: Groups, probabilities: Array, seed: int = 0) -> WholeEpisodes:
    """Estimate whole deliberations by weighted importance sampling with a control variate.

    Every episode is weighted by the product over its turns of π(a|o) / b(a|o). What the plain
    vote of an episode's proposals gives is known whatever was decided later, so only the
    difference to it is weighted (the doubly robust form of Jiang & Li 2016, with the vote as
    the value model): a router that always persists has the estimate 0 with no variance.

    Args:
        groups: All turns of the held-out episodes.
        probabilities: The router's, shape ``[G, 3]``.
        seed: Of the bootstrap.
    """
    rows = np.arange(len(groups))
    with np.errstate(divide="ignore"):
        ratio = np.log(probabilities[rows, groups.taken]) - np.log(
            groups.behaviour[rows, groups.taken].astype(float)
        )
    ids, index = np.unique(groups.episode, return_inverse=True)
    if not len(ids):
        return WholeEpisodes(0.0, None, None)
    weight = np.exp(np.bincount(index, np.where(np.isinf(ratio), -1e3, ratio)))
    gain = groups.outcomes.final[ids].astype(float) - groups.outcomes.vote[ids].astype(float)
    total = weight.sum()
    effective = float(total**2 / (weight**2).sum()) if total > 0 else 0.0
    if effective < LEAST_EFFECTIVE_SAMPLE:
        return WholeEpisodes(effective, None, None)
    first = np.full(len(ids), -1, dtype=np.int64)
    first[index] = groups.question
    weighted = gain * weight / weight.mean()
    return WholeEpisodes(
        effective,
        clustered(weighted, first, seed=seed),
        clustered(weighted - gain, first, seed=seed),
    )


def plain(value: Any) -> Any:
    """Return a dataclass of this module as plain data for JSON; NaN becomes None."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
