"""What a router would give, estimated from stored traces before it is ever run.

*One turn*: PERSIST and CONCEDE are known exactly with the peers held at what they did, REFINE is
the mean of its samples. Whole deliberations are estimated in `doubly_robust`.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.learn.dataset import Groups
from training.learn.measures import Interval, mean_interval

Array = NDArray[np.float64]
LEAST_QUESTIONS = 50
"""A gate needs this many questions. With few, the bootstrap is too sure: three questions that all
gain give [1, 1]."""


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


def one_turn(groups: Groups, probabilities: Array, rewards: NDArray[Any]) -> OneTurn:
    """Estimate a router turn by turn on held-out groups.

    `probabilities` are the router's, ``[G, 3]``, masked. `rewards` are ``[G, K]``.
    """

    def mean(values: Array) -> Interval:
        return mean_interval(values, groups.question)

    def expected(means: Array) -> Array:
        return expect(means, probabilities)

    group, own = groups.action_means(groups.consensus), groups.action_means(groups.correct)
    gain, taken = expected(group), expect(group, groups.behaviour.astype(float))
    nothing = np.full(3, np.nan)
    apart = probabilities[groups.disagreement]
    return OneTurn(
        reward=mean(expected(groups.action_means(rewards))),
        against_vote=mean(gain - group[:, 0]),
        against_behaviour=mean(gain - taken),
        own=mean(expected(own) - own[:, 0]),
        tokens=float(expected(groups.action_means(groups.tokens)).mean()),
        actions=(probabilities.mean(0) if len(groups) else nothing).tolist(),
        actions_disagreeing=(apart.mean(0) if len(apart) else nothing).tolist(),
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
