"""Means with intervals over questions and fits, how good a confidence is, logistic regression."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import bootstrap, mannwhitneyu, t

from mpdf_langgraph.calibration import EDGE

Array = NDArray[np.float64]


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
        return f"{self.short()} (n = {self.questions})"

    def short(self, sign: str = "+", digits: int = 4) -> str:
        """Return the interval without the number of questions."""
        mean, low, high = (f"{x:{sign}.{digits}f}" for x in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


def mean_interval(
    values: Array, question: NDArray[Any], *, samples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of `values` ``[n]`` with an interval from resampling whole questions.

    `question` tells which question each value belongs to: turns of one are not independent.
    """
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    _, index = np.unique(question, return_inverse=True)
    sums, sizes = np.bincount(index, values), np.bincount(index)
    mean = float(sums.sum() / sizes.sum())
    if len(sums) == 1:
        return Interval(mean, mean, mean, 1)

    def ratio(sums: Array, sizes: Array, axis: int = -1) -> Any:
        return sums.sum(axis=axis) / sizes.sum(axis=axis)

    found = bootstrap(
        (sums, sizes),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=samples,
        batch=max(1, 2_000_000 // len(sums)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(sums))


def wilson(accuracy: float, questions: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of an accuracy. It also works where all or none are right."""
    z = 1.96
    center = accuracy + z * z / (2 * questions)
    half = z * math.sqrt(accuracy * (1 - accuracy) / questions + (z / (2 * questions)) ** 2)
    scale = 1 + z * z / questions
    low, high = (center - half) / scale, (center + half) / scale
    # Rounding must leave neither the accuracy itself outside nor [0, 1].
    return max(0.0, min(accuracy, low)), min(1.0, max(accuracy, high))


def share_interval(right: Array, question: NDArray[Any]) -> Interval:
    """Return the share that is right, ``[n]``, with Wilson's interval over questions (95 %).

    `question` tells which question each value belongs to. Values of one question count as one.
    """
    questions = len(np.unique(question))
    if not questions:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    share = float(right.mean())
    return Interval(share, *wilson(share, questions), questions)


def widen_by_fits(interval: Interval, *tables: Array) -> Interval:
    """Return an interval over questions that also holds the variance between fits.

    Each table has what several fits gave on the same questions, ``[fits, questions]``. If
    their means differ more than chance on these questions explains, the excess widens the interval
    (a two-way analysis of variance). It does so by Student's t and as the root of the sum of
    squares. Fits that are alike widen it by nothing, and so does a single one.
    """
    half = math.hypot(*(_between_fits(table) for table in tables))
    return replace(
        interval,
        low=interval.mean - math.hypot(interval.mean - interval.low, half),
        high=interval.mean + math.hypot(interval.high - interval.mean, half),
    )


def _between_fits(table: Array) -> float:
    """Return the half width of the 95 % interval of the mean over fits, questions held fixed."""
    fits, questions = table.shape
    if fits < 2 or questions < 2:
        return 0.0
    means = table.mean(1)
    rest = table - table.mean(0) - means[:, None] + table.mean()
    chance = float((rest**2).sum()) / ((fits - 1) * (questions - 1) * questions)
    excess = max(0.0, float(means.var(ddof=1)) - chance)
    return float(t.ppf(0.975, fits - 1)) * math.sqrt(excess / fits)


def fit_logistic(x: Array, y: Array, spread: Array) -> Array:
    """Return the weights ``[P]`` of a logistic regression with normal priors around 0.

    `x` is ``[n, P]``, `y` is ``[n]`` in [0, 1], and `spread` is each prior's standard deviation.
    """

    def loss(weights: Array) -> tuple[float, Array]:
        """Return the negative log-posterior and its gradient."""
        odds = x @ weights
        value = np.logaddexp(0, odds).sum() - y @ odds + 0.5 * ((weights / spread) ** 2).sum()
        return float(value), x.T @ (expit(odds) - y) + weights / spread**2

    return np.asarray(minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x)


def ordered_pairs(score: Array, right: NDArray[Any]) -> tuple[float, int]:
    """Return in how many pairs of a right and a wrong answer the right one scores higher.

    A tie counts half. The second number is that of all pairs.
    """
    good, bad = score[right > 0.5], score[right < 0.5]
    if not len(good) or not len(bad):
        return 0.0, 0
    above = mannwhitneyu(good, bad, method="asymptotic").statistic
    return float(above), len(good) * len(bad)


def auroc(score: Array, right: NDArray[Any]) -> float:
    """Return the probability that a right answer scores above a wrong one. NaN without both."""
    above, pairs = ordered_pairs(score, right)
    return above / pairs if pairs else float("nan")


def reliability(confidence: Array, right: Array, bins: int = 10) -> list[tuple[float, float, int]]:
    """Return (mean confidence, share right, count) of every filled bin of equal width."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[chosen].mean()), float(right[chosen].mean()), int(chosen.sum()))
        for chosen in (index == b for b in range(bins))
        if chosen.any()
    ]


def quality(confidence: Array, right: Array) -> dict[str, float]:
    """Return Brier score, log-loss, expected calibration error, AUROC and count."""
    if not len(right):
        nan = float("nan")
        return {"brier": nan, "log_loss": nan, "ece": nan, "auroc": nan, "count": 0}
    p = np.clip(confidence, EDGE, 1 - EDGE)
    return {
        "brier": float(np.mean((confidence - right) ** 2)),
        "log_loss": float(-np.mean(right * np.log(p) + (1 - right) * np.log(1 - p))),
        "ece": calibration_error(confidence, right),
        "auroc": auroc(confidence, right),
        "count": len(right),
    }


def calibration_error(confidence: Array, right: Array) -> float:
    """Return the expected calibration error in ten bins of equal width."""
    gaps = [abs(mean - share) * count for mean, share, count in reliability(confidence, right)]
    return float(sum(gaps) / len(right))


def honest_error(probability: Array) -> float | None:
    """Return the calibration error that chance gives to probabilities that are exactly right."""
    if not len(probability):
        return None
    rng = np.random.default_rng(0)
    drawn = rng.random((200, len(probability))) < probability
    return float(np.mean([calibration_error(probability, one.astype(float)) for one in drawn]))
