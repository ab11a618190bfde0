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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.learn.joint import Floats, Integers, Joint
from training.learn.joint_rounds import after, count, group_right
from training.learn.measures import Interval, mean_interval
from training.learn.values import Values, Worth

LEAST_EFFECTIVE_SAMPLE = 4.0
"""Least number of episodes that went on as the router would. With fewer, nothing would show that V
is wrong there."""
MOST_UNSEEN = 0.01
"""Decisions an episode, in the mean, that the traces' policy never makes before the last round:
nothing corrects V there."""
_DRAWS = 16
_Z, _TINY = 1.96, 1e-9


@dataclass(frozen=True)
class WholeEpisodes:
    """A doubly robust estimate of whole deliberations.

    Attributes:
        effective_sample: How many episodes are expected to go on as the router would, in the
            round where it is least. Where no round needs weights it is the number of episodes.
        against_vote: Difference in accuracy to the plain vote of the proposals. None: it is not
            known, for the reason that `unknown` gives.
        against_behaviour: The same to the policy that made the traces.
        tokens: Difference in tokens per episode to the policy that made the traces.
        against_choice: Difference in accuracy to the rule over the proposals that is advised.
        unknown: Why there is no estimate. Empty: there is one.
    """

    effective_sample: float
    against_vote: Interval | None = None
    against_behaviour: Interval | None = None
    tokens: Interval | None = None
    against_choice: Interval | None = None
    unknown: str = ""


def whole_episodes(
    joint: Joint,
    values: Values,
    policy: Floats,
    question: NDArray[Any],
    seed: int = 0,
    choice: Mapping[int, float] | None = None,
) -> WholeEpisodes:
    """Estimate whole deliberations. Episodes without a decision are left out.

    Args:
        joint: All states of the held-out episodes.
        values: V of the router, fitted on other questions.
        policy: Probabilities of the router's actions, ``[S, N, 3]``.
        question: Of each state, ``[S]``.
        seed: Of the bootstrap.
        choice: Whether the advised rule over the proposals is right, by episode.
    """
    first = np.flatnonzero(joint.round == 1)
    if not len(first):
        return WholeEpisodes(0.0, unknown="there are no episodes with a decision")
    found = estimates(joint, values, policy)
    effective = float(min([float(len(first)), *(part.matching for part in found.corrections)]))
    if effective < LEAST_EFFECTIVE_SAMPLE:
        return WholeEpisodes(
            effective,
            unknown=f"effective sample {effective:.1f}, {LEAST_EFFECTIVE_SAMPLE:.0f} needed",
        )
    if found.unseen > MOST_UNSEEN:
        return WholeEpisodes(
            effective,
            unknown=f"{found.unseen:.2f} decisions of an episode are such as the traces' policy "
            "never makes: collect with a router that explores",
        )
    vote = group_right(joint, joint.before[first], count(joint, first, joint.before[first]))
    final, spent = realised_worth(joint)

    def interval(part: str, other: Floats) -> Interval:
        estimate, model = getattr(found, part)[first], getattr(found.model, part)[first]
        spread = mean_interval(model - other, question[first], seed=seed)
        extra = _Z * _standard_error(found.corrections, part, question, len(first))
        mean = float((estimate - other).mean())
        low = mean - math.hypot(spread.mean - spread.low, extra)
        high = mean + math.hypot(spread.high - spread.mean, extra)
        return Interval(mean, low, high, spread.questions)

    return WholeEpisodes(
        effective,
        interval("right", vote.astype(float)),
        interval("right", final[first]),
        interval("tokens", spent[first]),
        None
        if choice is None
        else interval("right", np.array([choice.get(int(e), 0.0) for e in joint.episode[first]])),
    )


@dataclass(frozen=True)
class Correction:
    """What mends V in one round.

    Attributes:
        states: Those from which episodes went on, ``[n]``.
        squared: E[rho^2] at each, ``[n]``.
        right: DR(s'') - V(s'') of the accuracy, ``[n]``.
        tokens: The same of the tokens, ``[n]``.
    """

    states: Integers
    squared: Floats
    right: Floats
    tokens: Floats

    @property
    def matching(self) -> float:
        """How many of the episodes are expected to go on as the router would."""
        return float((1 / self.squared).sum())


@dataclass(frozen=True)
class Estimates:
    """Doubly robust estimates of every state, and how far they can be trusted.

    Attributes:
        right: Accuracy, ``[S]``.
        tokens: Tokens, ``[S]``.
        model: The same by V alone.
        corrections: Of every round that needs weights, the first round first.
        unseen: Decisions of an episode that the traces' policy never makes in those rounds.
    """

    right: Floats
    tokens: Floats
    model: Worth
    corrections: list[Correction]
    unseen: float


def estimates(joint: Joint, values: Values, policy: Floats) -> Estimates:
    """Return the doubly robust estimates of every state."""
    every = np.arange(len(joint))
    model = values.expected_worth(joint, every, policy, _DRAWS)
    right, tokens = model.right.copy(), model.tokens.copy()
    held, _, _ = after(joint, every, joint.taken)
    following = _following(joint)
    rows, places = every[:, None], np.arange(joint.before.shape[1])
    action = joint.action[rows, places, joint.taken]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = policy[rows, places, action] / joint.behaviour[rows, places, action]
        squares = np.where(joint.behaviour > 0, policy**2 / joint.behaviour, 0.0).sum(2)
    rho = np.where(joint.there, ratio, 1.0).prod(1)
    squared = np.where(joint.there, np.maximum(squares, _TINY), 1.0).prod(1)
    never = np.where((joint.behaviour > 0) | ~joint.there[:, :, None], 0.0, policy).sum((1, 2))
    corrections: list[Correction] = []
    unseen = 0.0
    for round_ in range(int(joint.round.max(initial=0)) - 1, 0, -1):
        goes_on = np.flatnonzero((joint.round == round_) & (following >= 0))
        if not len(goes_on):
            continue
        unseen += never[goes_on].sum() / max(1, (joint.round == 1).sum())
        known = values.of(joint, goes_on, held[goes_on])
        then = following[goes_on]
        gaps = right[then] - known.right, tokens[then] - known.tokens
        corrections.insert(0, Correction(goes_on, squared[goes_on], *gaps))
        right[goes_on] += rho[goes_on] * gaps[0]
        tokens[goes_on] += rho[goes_on] * gaps[1]
    return Estimates(right, tokens, model, corrections, float(unseen))


def _standard_error(
    corrections: Sequence[Correction], part: str, question: NDArray[Any], episodes: int
) -> float:
    """Return the standard error of the mean correction.

    Corrections of one question are taken to err together: nobody sees how hard it is.
    """
    total, before = 0.0, 1.0
    for correction in corrections:
        gap = float((getattr(correction, part) ** 2).mean())
        sizes = np.bincount(question[correction.states])
        total += before * gap * (correction.squared.sum() + (sizes * (sizes - 1)).sum())
        before *= float(correction.squared.mean())
    return math.sqrt(total) / episodes


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
