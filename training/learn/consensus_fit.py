"""Fits a learned consensus: a conditional logit of the right answer among those that a team gives.

The score is that of `mpdf_langgraph.learned_consensus`. It is linear in its weights, and its
log-likelihood is concave where one answer is right. So L-BFGS finds the optimum, in less than a
second. An L2 penalty draws the weights of one agent or pair to those that all agents and pairs
share. Inner folds over the training questions choose the strength of the penalty.

Each state is learned from twice: whole, and with a random part of its voices. So the probabilities
also hold where agents abstain or were not asked.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array

from mpdf_langgraph.calibration import log_odds
from mpdf_langgraph.errors import MPDFError
from mpdf_langgraph.learned_consensus import MOST, LearnedConsensus, Shared
from training.learn.ballots import (
    Ballots,
    drop_voices,
    join_ballots,
    merge_equal,
    shuffle_into_folds,
)

Array = NDArray[np.float64]

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Strengths of the penalty that the inner folds choose from."""
INNER_FOLDS = 5
PART_WEIGHT = 0.05
"""Weight of a state's random part. The whole state weighs 1. This small weight is enough to learn
what a silent agent means. At .5 a team with one strong model was judged worse (.939 against
.942)."""
LEAST_AGREEMENT = 0.02
"""P(two wrong answers agree) is taken for no less than this."""
_SHARED_STRENGTH = 0.1
"""Penalty of the weights that all agents share. It only keeps them finite."""
_SHARED = tuple(Shared.model_fields)
_COLUMN = {name: i for i, name in enumerate(_SHARED)}


@dataclass(frozen=True)
class Design:
    """The candidates of E states as R rows of P features. "None is right" is one of them.

    Attributes:
        rows: Features, ``[R, P]`` sparse: the shared ones, agents, pairs, then agents by category.
        start: First row of each state, and the end, ``[E + 1]``.
        right: The row is the case, ``[R]`` bool. At least one row of each state is.
        weight: Of each state, ``[E]``.
    """

    rows: Any
    start: NDArray[np.int64]
    right: NDArray[np.bool_]
    weight: Array


def make_design(ballots: Ballots) -> Design:
    """Return the candidates of all states with their features."""
    size = len(ballots.agents)
    pairs = {pair: i for i, pair in enumerate(combinations(range(size), 2))}
    first_pair = len(_SHARED) + size
    first_category = first_pair + len(pairs)
    width = first_category + size * len(ballots.categories)
    entries: list[tuple[int, int, float]] = []
    start: list[int] = [0]
    right: list[bool] = []

    for state in range(len(ballots)):
        there = np.flatnonzero(ballots.author[state] >= 0).tolist()
        category = int(ballots.category[state])
        clusters: dict[int, list[int]] = {}
        for k in there:
            clusters.setdefault(int(ballots.cluster[state, k]), []).append(k)
        row = len(right)
        entries += [(row, _COLUMN["none"], 1.0), (row, _COLUMN["none_per_voice"], len(there))]
        right.append(not any(ballots.right[state, ks[0]] for ks in clusters.values()))
        for ks in clusters.values():
            row = len(right)
            right.append(bool(ballots.right[state, ks[0]]))
            for place, k in enumerate(ks):
                i = int(ballots.author[state, k])
                refined = bool(ballots.refined[state, k])
                found = [(_COLUMN["vote"], 1.0), (len(_SHARED) + i, 1.0)]
                if category >= 0:
                    found.append((first_category + category * size + i, 1.0))
                if refined:
                    found.append((_COLUMN["refined"], 1.0))
                if not np.isnan(p := float(ballots.confidence[state, k])):
                    found += [(_COLUMN["known"], 1.0), (_COLUMN["confidence"], log_odds(p))]
                for other in ks[:place]:
                    j = int(ballots.author[state, other])
                    if i == j:
                        continue
                    found.append((_COLUMN["pair"], 1.0))
                    found.append((first_pair + pairs[min(i, j), max(i, j)], 1.0))
                    if refined or ballots.refined[state, other]:
                        found.append((_COLUMN["refined_pair"], 1.0))
                entries += [(row, column, value) for column, value in found]
        start.append(len(right))
    at = np.array([entry[:2] for entry in entries], np.int64).reshape(-1, 2).T
    rows = csr_array(
        (np.array([entry[2] for entry in entries], float), (at[0], at[1])), (len(right), width)
    )
    return Design(rows, np.array(start), np.array(right, bool), ballots.weight)


def _log_partition(scores: Array, start: NDArray[np.int64]) -> Array:
    """Return the log-sum-exp of each state's scores, ``[E]``."""
    top = np.maximum.reduceat(scores, start[:-1])
    return np.asarray(
        top + np.log(np.add.reduceat(np.exp(scores - np.repeat(top, np.diff(start))), start[:-1]))
    )


def log_loss(design: Design, weights: Array) -> tuple[float, Array]:
    """Return the weighted log-loss of what is the case, and its gradient ``[P]``."""
    sizes = np.diff(design.start)
    scores = design.rows @ weights
    total = _log_partition(scores, design.start)
    masked = np.where(design.right, scores, -np.inf)
    case = _log_partition(masked, design.start)
    each = np.repeat(design.weight, sizes)
    gap = np.exp(scores - np.repeat(total, sizes)) - np.exp(masked - np.repeat(case, sizes))
    return float(design.weight @ (total - case)), design.rows.T @ (each * gap)


def fit_weights(design: Design, strength: float, begin: Array | None = None) -> Array:
    """Return the penalised maximum-likelihood weights, ``[P]``.

    `strength` penalises what is an agent's or a pair's own. `begin` changes only how long it takes.

    Raises:
        MPDFError: They are not finite.
    """
    penalty = np.full(design.rows.shape[1], float(strength))
    penalty[: len(_SHARED)] = _SHARED_STRENGTH
    # Every weight in units of about its own standard error: a tenth of the steps.
    each = np.repeat(design.weight / np.diff(design.start), np.diff(design.start))
    unit = 1 / np.sqrt(penalty + (design.rows**2).T @ each)

    def objective(scaled: Array) -> tuple[float, Array]:
        weights = unit * scaled
        loss, gradient = log_loss(design, weights)
        return loss + 0.5 * float(penalty @ weights**2), unit * (gradient + penalty * weights)

    start = np.zeros(len(penalty)) if begin is None else begin / unit
    options = {"maxiter": 1000, "ftol": 1e-9, "gtol": 1e-3}
    found = unit * minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    if not np.isfinite(found).all():
        raise MPDFError("the consensus has no finite weights: a confidence is not finite")
    return np.asarray(found)


def learning_design(ballots: Ballots, seed: int = 0) -> Design:
    """Return the states to learn from: each whole, and with a random part of its voices."""
    part = drop_voices(ballots, seed)
    lighter = replace(part, weight=PART_WEIGHT * part.weight)
    return make_design(merge_equal(join_ballots([ballots, lighter])))


def choose_strength(ballots: Ballots, seed: int = 0) -> float:
    """Return the strength with the least log-loss of whole states on inner folds."""
    folds = shuffle_into_folds(ballots, INNER_FOLDS, seed)
    losses = dict.fromkeys(STRENGTHS, 0.0)
    for fold in range(INNER_FOLDS):
        rest, out = ballots.select(folds != fold), ballots.select(folds == fold)
        if not len(rest) or not len(out):
            continue
        learned, asked = learning_design(rest, seed), make_design(merge_equal(out))
        weights = None
        for strength in reversed(STRENGTHS):
            weights = fit_weights(learned, strength, weights)
            losses[strength] += log_loss(asked, weights)[0]
    return min(losses, key=losses.__getitem__)


def fit_consensus(
    ballots: Ballots, seed: int = 0, strength: float | None = None
) -> LearnedConsensus:
    """Fit a consensus, without what is found on questions that it was not fitted on.

    Inner folds choose the strength of the penalty where it is not given.
    """
    if strength is None:
        strength = choose_strength(ballots, seed)
    weights = fit_weights(learning_design(ballots, seed), strength)
    size = len(ballots.agents)
    shared, own = weights[: len(_SHARED)], weights[len(_SHARED) : len(_SHARED) + size]
    rest = weights[len(_SHARED) + size :]
    pairs = np.zeros((size, size))
    for (i, j), weight in zip(combinations(range(size), 2), rest, strict=False):
        pairs[i, j] = pairs[j, i] = weight
    by_category = rest[size * (size - 1) // 2 :].reshape(len(ballots.categories), size)

    def numbers(values: Array) -> tuple[float, ...]:
        return tuple(float(round(value, 6)) for value in np.clip(values, -MOST, MOST))

    return LearnedConsensus(
        shared=Shared(**dict(zip(_SHARED, numbers(shared), strict=True))),
        agents=ballots.agents,
        votes=numbers(own),
        pairs=tuple(map(numbers, pairs)),
        categories={
            name: numbers(row) for name, row in zip(ballots.categories, by_category, strict=True)
        },
        agreement=measure_agreement(ballots),
    )


def measure_agreement(ballots: Ballots) -> float:
    """Return P(two wrong answers of one state's proposals agree), with a prior of one pair each."""
    agree = pairs = 0
    for state in np.flatnonzero(ballots.first):
        wrong = (ballots.author[state] >= 0) & ~ballots.right[state]
        _, count = np.unique(ballots.cluster[state][wrong], return_counts=True)
        agree += int((count * (count - 1)).sum()) // 2
        pairs += int(wrong.sum() * (wrong.sum() - 1)) // 2
    return max(LEAST_AGREEMENT, round((agree + 1) / (pairs + 2), 4))
