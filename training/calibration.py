"""Calibration of the critic's confidence: how far off it is, and a temperature that mends it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

Array = NDArray[np.float64]
EDGE = 1e-4
"""Confidences are kept this far from 0 and 1, where the logarithm has no end."""


@dataclass(frozen=True)
class Platt:
    """Platt scaling of a confidence: `expit(slope * logit(confidence) + shift)`.

    Attributes:
        slope: 1 / temperature; below 1 the raw confidence is overconfident.
        shift: Moves the whole curve; 0 is plain temperature scaling.
    """

    slope: float = 1.0
    shift: float = 0.0

    @classmethod
    def fit(cls, confidence: Array, right: Array, *, shift: bool = True) -> "Platt":
        """Fit by maximum likelihood.

        Args:
            confidence: Raw confidences in [0, 1], shape ``[n]``.
            right: 1 where the answer was right, else 0, shape ``[n]``.
            shift: Fit the shift too; False is temperature scaling (Guo et al. 2017).

        Returns:
            The identity where there is nothing to learn from: none, all right, all wrong, or all
            equally confident.
        """
        good = float(np.sum(right))
        bad = len(right) - good
        if not good or not bad or np.ptp(confidence) == 0:
            return cls()
        x = logit(np.clip(confidence, EDGE, 1 - EDGE))
        # Platt's targets: short of 0 and 1, or a few well separated answers give an endless slope.
        target = np.where(right > 0.5, (good + 1) / (good + 2), 1 / (bad + 2))

        def loss(parameters: Array) -> tuple[float, Array]:
            """Return the mean log-loss and its gradient."""
            z = parameters[0] * x + parameters[1]
            gap = expit(z) - target
            slope = np.array([np.mean(gap * x), np.mean(gap) if shift else 0.0])
            return float(np.mean(np.logaddexp(0, z) - target * z)), slope

        # Not by Nelder-Mead, which stops in the flat valley before the minimum.
        best = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
        return cls(float(best[0]), float(best[1]))

    def apply(self, confidence: Array) -> Array:
        """Return the calibrated confidences, shape ``[n]``."""
        clipped = np.clip(confidence, EDGE, 1 - EDGE)
        return np.asarray(expit(self.slope * logit(clipped) + self.shift))


def reliability(confidence: Array, right: Array, bins: int = 10) -> list[tuple[float, float, int]]:
    """Return (mean confidence, share right, count) of every filled bin of equal width."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[chosen].mean()), float(right[chosen].mean()), int(chosen.sum()))
        for chosen in (index == b for b in range(bins))
        if chosen.any()
    ]


def auroc(score: Array, right: Array) -> float:
    """Return the probability that a right answer scores above a wrong one; NaN without both."""
    good, bad = score[right > 0.5], np.sort(score[right < 0.5])
    if not len(good) or not len(bad):
        return float("nan")
    below = np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")
    return float(below.sum() / 2 / (len(good) * len(bad)))


def quality(confidence: Array, right: Array) -> dict[str, float]:
    """Return Brier score, log-loss, expected calibration error, AUROC and count."""
    if not len(right):
        nan = float("nan")
        return {"brier": nan, "log_loss": nan, "ece": nan, "auroc": nan, "count": 0}
    p = np.clip(confidence, EDGE, 1 - EDGE)
    gaps = [abs(mean - share) * count for mean, share, count in reliability(confidence, right)]
    return {
        "brier": float(np.mean((confidence - right) ** 2)),
        "log_loss": float(-np.mean(right * np.log(p) + (1 - right) * np.log(1 - p))),
        "ece": float(sum(gaps) / len(right)),
        "auroc": auroc(confidence, right),
        "count": len(right),
    }
