"""Rates and rankings with standard errors over questions, whose samples are not independent."""

from collections.abc import Sequence

import numpy as np

from training.learn.measures import ordered_pairs

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


def auroc(groups: Sequence[Sequence[tuple[float, bool]]], within: bool) -> Rate:
    """AUROC of a score, overall or within questions, with its standard error by bootstrap."""
    rng = np.random.default_rng(0)
    arrays = [
        (np.array([s for s, _ in group]), np.array([r for _, r in group], dtype=bool))
        for group in groups
    ]
    pairs = np.array([ordered_pairs(*array) for array in arrays])

    def value(chosen: np.ndarray) -> float:
        if within:
            good, total = pairs[chosen].sum(0)
        else:
            scores = np.concatenate([arrays[i][0] for i in chosen])
            right = np.concatenate([arrays[i][1] for i in chosen])
            good, total = ordered_pairs(scores, right)
        return good / total if total else float("nan")

    everyone = np.arange(len(arrays))
    draws = [value(rng.choice(everyone, len(everyone))) for _ in range(200)]
    drawn = [draw for draw in draws if not np.isnan(draw)]
    error = float(np.std(drawn)) if drawn else float("nan")
    total = int(pairs[:, 1].sum()) if within else sum(len(group) for group in groups)
    return {"value": value(everyone), "error": error, "n": total}
