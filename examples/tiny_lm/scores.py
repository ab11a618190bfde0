"""Rates and rankings with standard errors over questions, whose samples are not independent."""

from collections.abc import Sequence

import numpy as np

Rate = dict[str, float]


def rate(groups: Sequence[Sequence[float]]) -> Rate:
    """A mean over all values with its standard error over groups (questions)."""
    filled = [group for group in groups if len(group)]
    sizes = np.array([len(group) for group in filled], dtype=float)
    sums = np.array([sum(group) for group in filled], dtype=float)
    if not len(sizes):
        return {"value": float("nan"), "error": float("nan"), "n": 0}
    value = sums.sum() / sizes.sum()
    spread = ((sums - value * sizes) ** 2).sum() * len(sizes) / max(1, len(sizes) - 1)
    return {"value": value, "error": float(np.sqrt(spread) / sizes.sum()), "n": int(sizes.sum())}


def concordance(scores: np.ndarray, right: np.ndarray) -> tuple[float, int]:
    """The number of right-wrong pairs in which the right one scores higher, and of all pairs."""
    good, bad = scores[right], scores[~right]
    order = np.sort(bad)
    below = np.searchsorted(order, good, "left") + np.searchsorted(order, good, "right")
    return float(below.sum()) / 2, len(good) * len(bad)


def auroc(groups: Sequence[Sequence[tuple[float, bool]]], within: bool, seed: int = 0) -> Rate:
    """AUROC of a score, overall or among the responses to one question; error by bootstrap."""
    rng = np.random.default_rng(seed)
    arrays = [
        (np.array([s for s, _ in group]), np.array([r for _, r in group], dtype=bool))
        for group in groups
    ]
    pairs = np.array([concordance(*array) for array in arrays])

    def value(chosen: np.ndarray) -> float:
        if within:
            good, total = pairs[chosen].sum(0)
        else:
            scores = np.concatenate([arrays[i][0] for i in chosen])
            right = np.concatenate([arrays[i][1] for i in chosen])
            good, total = concordance(scores, right)
        return good / total if total else float("nan")

    everyone = np.arange(len(arrays))
    draws = [value(rng.choice(everyone, len(everyone))) for _ in range(200)]
    drawn = [draw for draw in draws if not np.isnan(draw)]
    error = float(np.std(drawn)) if drawn else float("nan")
    total = int(pairs[:, 1].sum()) if within else sum(len(group) for group in groups)
    return {"value": value(everyone), "error": error, "n": total}


def calibration_error(pairs: Sequence[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error over bins of equal width."""
    scores = np.array([score for score, _ in pairs])
    right = np.array([r for _, r in pairs], dtype=float)
    index = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = [
        abs(scores[index == b].mean() - right[index == b].mean()) * (index == b).mean()
        for b in range(bins)
        if (index == b).any()
    ]
    return float(sum(gaps))
