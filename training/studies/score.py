"""Scores of fitted policies on the same turns, with tables and plots that compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.state import ACTIONS
from training.learn.dataset import Groups
from training.learn.display import COLORS, percent, start_figure
from training.learn.measures import Interval, mean_interval
from training.learn.off_policy import expect
from training.learn.rewards import Weights

#: All policies are scored by these weights, whatever they were fitted with.
YARDSTICK = Weights()
#: The least range of a plot of differences in reward.
LEAST_RANGE = 0.01


@dataclass
class Scores:
    """Scores of a policy turn by turn, the turns of all seeds one after another.

    Attributes:
        question: Whose turns, ``[n]``.
        seed: Seed of the fit, ``[n]``.
        reward: Expected reward by the yardstick, ``[n]``.
        group: Expected change of the group's accuracy against persisting, ``[n]``.
        own: The same of the agent's own, ``[n]``.
        tokens: Expected tokens, ``[n]``.
        probabilities: Probabilities of the actions, ``[n, 3]``.
        spread: Standard deviation of the advantages that it was fitted with. None: it had none.
        problems: Why seeds are missing.
    """

    question: NDArray[Any]
    seed: NDArray[Any]
    reward: NDArray[Any]
    group: NDArray[Any]
    own: NDArray[Any]
    tokens: NDArray[Any]
    probabilities: NDArray[Any]
    spread: float | None = None
    problems: Sequence[str] = ()


def score(parts: Sequence[tuple[int, Groups, NDArray[Any]]]) -> Scores:
    """Score a policy on groups, from the seed, the groups and its probabilities of every fit."""
    columns: dict[str, list[NDArray[Any]]] = {}
    for seed, groups, probabilities in parts:
        held, voted = groups.action_means(groups.correct), groups.action_means(groups.consensus)
        rewards = groups.action_means(groups.rewards(YARDSTICK))
        found = {
            "question": groups.question,
            "seed": np.full(len(groups), seed),
            "reward": expect(rewards, probabilities),
            "group": expect(voted, probabilities) - voted[:, 0],
            "own": expect(held, probabilities) - held[:, 0],
            "tokens": expect(groups.action_means(groups.tokens), probabilities),
            "probabilities": probabilities,
        }
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    joined: dict[str, Any] = {name: np.concatenate(values) for name, values in columns.items()}
    return Scores(**joined)


# --- tables and plots -------------------------------------------------------------------------

HEADINGS = ["variant", "reward", "against", "moved", "± seeds", "group − persisting",
            "own − persisting", "tokens", *ACTIONS, "std(A)"]  # fmt: skip
EXPLANATION = (
    "One turn, on held-out questions, from stored responses with the peers held at what they did. "
    "*Reward*: r_local + r_global of a turn, expected; *against*: its difference to the variant "
    "marked =, over the same turns; *moved*: total variation between the two policies, in the "
    "mean; *± seeds*: standard deviation of the reward over seeds; *group* and *own*: what a turn "
    "adds to the accuracy of the group and of the agent; *std(A)*: of SoftRankPO's advantages. "
    "Intervals are 95 %, from resampling questions."
)


def compare_policies(scores: Scores, base: Scores) -> tuple[Interval, float]:
    """Return the paired difference in reward, and how far the policy moved.

    Only the seeds that both have count.
    """
    both = np.intersect1d(scores.seed, base.seed)
    mine, other = np.isin(scores.seed, both), np.isin(base.seed, both)
    difference = scores.reward[mine] - base.reward[other]
    moved = np.abs(scores.probabilities[mine] - base.probabilities[other]).sum(1) / 2
    return (
        mean_interval(difference, scores.question[mine]),
        float(moved.mean()) if len(moved) else float("nan"),
    )


def row(label: str, scores: Scores | str, base: Scores | str | None) -> list[Any]:
    """Return a variant's line of the table."""
    if isinstance(scores, str):
        return [label, f"failed: {scores}", *["–"] * (len(HEADINGS) - 2)]
    by_seed = [scores.reward[scores.seed == seed].mean() for seed in np.unique(scores.seed)]
    spread = f"{np.std(by_seed, ddof=1):.4f}" if len(by_seed) > 1 else "–"
    against, moved = "–", "–"
    if base is scores:
        against = "="
    elif isinstance(base, Scores):
        difference, distance = compare_policies(scores, base)
        against, moved = difference.short(), f"{distance:.4f}"
    missing = f" ({len(scores.problems)} seeds failed)" if scores.problems else ""
    return [
        label + missing,
        f"{scores.reward.mean():.4f}",
        against,
        moved,
        spread,
        mean_interval(scores.group, scores.question).short(),
        mean_interval(scores.own, scores.question).short(),
        f"{scores.tokens.mean():.0f}",
        *percent(scores.probabilities.mean(0)),
        "–" if scores.spread is None else f"{scores.spread:.3f}",
    ]


def plot(path: Path, lines: Mapping[str, Scores | str], base: Mapping[str, Scores | str]) -> None:
    """Draw a line per variant: its gains in reward and for the group, and its actions.

    Variants that failed are left out. `base` is what a line is compared with in reward. The
    intervals of paired differences are narrower than those of the rewards, because questions differ
    more than variants.
    """
    shown = {label: scores for label, scores in lines.items() if isinstance(scores, Scores)}
    height = 1.2 + 0.32 * max(1, len(shown))
    axes, done = start_figure(path, 3, width=13 / 3, height=height, sharey=True)
    widest = LEAST_RANGE
    for y, (label, scores) in enumerate(shown.items()):
        found = {1: mean_interval(scores.group, scores.question)}
        if isinstance(other := base.get(label), Scores):
            found[0] = compare_policies(scores, other)[0]
            widest = max(widest, -found[0].low, found[0].high)
        for place, interval in found.items():
            axes[place].plot([interval.low, interval.high], [y, y], color="#4477aa", lw=2)
            axes[place].plot(interval.mean, y, "o", color="#4477aa")
    axes[0].axvline(0, color="#999999", lw=1)
    axes[0].set(xlabel="reward of a turn − that of =", xlim=(-1.1 * widest, 1.1 * widest))
    axes[1].set_xlabel("group's accuracy − persisting")
    for axis in axes[:2]:
        axis.locator_params(axis="x", nbins=5)
    axes[2].grid(visible=False)
    left = np.zeros(len(shown))
    for place, action in enumerate(ACTIONS):
        share = np.array([scores.probabilities[:, place].mean() for scores in shown.values()])
        axes[2].barh(range(len(shown)), share, left=left, color=COLORS[action], label=action)
        left += share
    axes[2].set(xlabel="share of turns", xlim=(0, 1))
    axes[2].legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes[0].set_yticks(range(len(shown)), list(shown))
    axes[0].invert_yaxis()
    done()
