"""What a router would give in whole deliberations, estimated from traces before it is ever run.

Per-decision doubly robust (Jiang & Li, "Doubly Robust Off-policy Value Evaluation for Reinforcement
Learning", ICML 2016, equation 10), with a fitted V as the model. For a state s of an episode,

    DR(s) = E[V(s')] + rho * (DR(s'') - V(s''))

The expectation is over the router's own moves, which are drawn from the cached responses, so that
it needs no weights. s'' is the state that the episode went on to, and rho = prod pi(a|o) / b(a|o)
over the agents' actions of this one round. V is exact where the deliberation ends. So the last
round needs no weights at all, and each round before it only its own. V is fitted on other questions
than those that are estimated on: the estimate is unbiased however wrong V is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.learn.joint import Floats, Integers, Joint, after, count, group_right
from training.learn.measures import Interval, mean_interval
from training.learn.values import Values

LEAST_EFFECTIVE_SAMPLE = 20.0
"""Of the episodes that went on as the router would: with fewer the interval is too narrow."""
MOST_UNSEEN = 0.01
"""Decisions an episode, in the mean, that the traces' policy never makes before the last round:
nothing corrects V there."""
_DRAWS = 16


@dataclass(frozen=True)
class WholeEpisodes:
    """A doubly robust estimate of whole deliberations.

    Attributes:
        effective_sample: Kish's effective sample size of the weights, in the round where it is
            least. Where no round needs weights it is the number of episodes.
        against_vote: Difference in accuracy to the plain vote of the proposals. None: it is not
            known, for the reason that `unknown` gives.
        against_behaviour: The same to the policy that made the traces.
        tokens: Difference in tokens per episode to the policy that made the traces.
        unknown: Why there is no estimate. Empty: there is one.
    """

    effective_sample: float
    against_vote: Interval | None = None
    against_behaviour: Interval | None = None
    tokens: Interval | None = None
    unknown: str = ""


def whole_episodes(
    joint: Joint, values: Values, policy: Floats, question: NDArray[Any], seed: int = 0
) -> WholeEpisodes:
    """Estimate whole deliberations. Episodes without a decision are left out.

    Args:
        joint: All states of the held-out episodes.
        values: V of the router, fitted on other questions.
        policy: Probabilities of the router's actions, ``[S, N, 3]``.
        question: Of each state, ``[S]``.
        seed: Seed of the bootstrap.
    """
    first = np.flatnonzero(joint.round == 1)
    if not len(first):
        return WholeEpisodes(0.0, unknown="there are no episodes with a decision")
    right, tokens, weights, unseen = estimates(joint, values, policy)
    sizes = [weight.sum() ** 2 / (weight**2).sum() if weight.any() else 0.0 for weight in weights]
    effective = float(min([float(len(first)), *sizes]))
    if effective < LEAST_EFFECTIVE_SAMPLE:
        return WholeEpisodes(
            effective,
            unknown=f"effective sample {effective:.0f}, {LEAST_EFFECTIVE_SAMPLE:.0f} needed",
        )
    if unseen > MOST_UNSEEN:
        return WholeEpisodes(
            effective,
            unknown=f"{unseen:.2f} decisions of an episode are such as the traces' policy never "
            "makes: collect with a router that explores",
        )
    vote = group_right(joint, joint.before[first], count(joint, first, joint.before[first]))
    final, spent = realised_worth(joint)
    about = question[first]
    return WholeEpisodes(
        effective,
        mean_interval(right[first] - vote, about, seed=seed),
        mean_interval(right[first] - final[first], about, seed=seed),
        mean_interval(tokens[first] - spent[first], about, seed=seed),
    )


def estimates(
    joint: Joint, values: Values, policy: Floats
) -> tuple[Floats, Floats, list[Floats], float]:
    """Return the doubly robust estimates of every state, and how far they can be trusted.

    Returns:
        Accuracy ``[S]``, tokens ``[S]``, the weights of every round that needs them, and how many
        decisions of an episode the traces' policy never makes in those rounds.
    """
    every = np.arange(len(joint))
    model = values.expected_worth(joint, every, policy, _DRAWS)
    right, tokens = model.right.copy(), model.tokens.copy()
    held, _, _ = after(joint, every, joint.taken)
    following = _following(joint)
    rows, places = every[:, None], np.arange(joint.before.shape[1])
    action = joint.action[rows, places, joint.taken]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = policy[rows, places, action] / joint.behaviour[rows, places, action]
    rho = np.where(joint.there, ratio, 1.0).prod(1)
    never = np.where((joint.behaviour > 0) | ~joint.there[:, :, None], 0.0, policy).sum((1, 2))
    weights, unseen = [], 0.0
    for round_ in range(int(joint.round.max(initial=0)) - 1, 0, -1):
        goes_on = np.flatnonzero((joint.round == round_) & (following >= 0))
        if not len(goes_on):
            continue
        weights.append(rho[goes_on])
        unseen += never[goes_on].sum() / max(1, (joint.round == 1).sum())
        known = values.of(joint, goes_on, held[goes_on])
        then = following[goes_on]
        right[goes_on] += rho[goes_on] * (right[then] - known.right)
        tokens[goes_on] += rho[goes_on] * (tokens[then] - known.tokens)
    return right, tokens, weights, float(unseen)


def realised_worth(joint: Joint) -> tuple[Floats, Floats]:
    """Return what the episodes gave from each state on: accuracy and tokens, ``[S]`` each."""
    every = np.arange(len(joint))
    held, _, tokens = after(joint, every, joint.taken)
    right = group_right(joint, held, count(joint, every, held)).astype(float)
    following = _following(joint)
    for round_ in range(int(joint.round.max(initial=0)) - 1, 0, -1):
        goes_on = np.flatnonzero((joint.round == round_) & (following >= 0))
        right[goes_on] = right[following[goes_on]]
        tokens[goes_on] += tokens[following[goes_on]]
    return right, tokens


def _following(joint: Joint) -> Integers:
    """Return the state that each was followed by, -1 where it was the last."""
    order = np.lexsort([joint.round, joint.episode])
    result = np.full(len(joint), -1)
    same = joint.episode[order][1:] == joint.episode[order][:-1]
    result[order[:-1][same]] = order[1:][same]
    return result
