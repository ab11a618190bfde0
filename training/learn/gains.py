"""Measures the rates of the expected-gain rule on graded traces (see `mpdf_langgraph`).

Each rate is a logistic regression on a handful of numbers, fitted by maximum likelihood with an L2
penalty. The penalty draws an agent's own shift to nothing (a normal prior of standard deviation
`AGENT_SPREAD`), and draws the standings to the rate of all (`STANDING_SPREAD`). So an agent of
which little is known decides nearly as the team would.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.expected_gain import DEFAULT_TOKENS, STANDINGS, Gains, Rate, View, view_of
from mpdf_langgraph.state import Observation
from training.learn.dataset import Groups
from training.learn.display import table
from training.learn.measures import fit_logistic
from training.learn.rewards import CONCEDE, REFINE

Array = NDArray[np.float64]

AGENT_SPREAD, STANDING_SPREAD, SLOPE_SPREAD = 0.5, 1.5, 2.0
"""Standard deviations, in log-odds, of the priors of the weights."""


def fit_gains(groups: Groups, calibration: Calibration, cost: float = 0.0) -> Gains:
    """Measure the rates on groups of rollouts, read with this calibration.

    `cost` is the price of 1,000 tokens, in accuracy.
    """
    views = [view_of(observation) for observation in observations_of(groups)]
    agents = [groups.agents[i] for i in groups.agent]
    right = groups.held_right.astype(float)
    refined, conceded = (
        groups.rollout_mask & (groups.actions == action) for action in (REFINE, CONCEDE)
    )
    share = groups.correct.astype(float)
    count = refined.sum(1)
    after = np.divide((share * refined).sum(1), count, out=np.zeros(len(groups)), where=count > 0)
    tried = count > 0
    valid = np.array([view.standing != "no answer" for view in views], bool)
    known = conceded.any(1)
    rival = (share * conceded).sum(1)
    measured = {
        "questions": len(groups.questions),
        "decisions": len(groups),
        "refined from wrong": int((tried & (right == 0)).sum()),
        "refined from right": int((tried & (right == 1)).sum()),
        "by agent": _observed(groups.agents, agents, right, after, tried),
        "by standing": _observed(STANDINGS, [v.standing for v in views], right, after, tried),
    }
    return Gains(
        right=_fit_rate(views, agents, right, valid),
        healed=_fit_rate(views, agents, after, tried & (right == 0)),
        broken=_fit_rate(views, agents, 1 - after, tried & (right == 1)),
        rival=_fit_rate(views, agents, rival, known),
        tokens=_mean_tokens(groups, refined) or {"": DEFAULT_TOKENS},
        cost=cost,
        calibration=calibration,
        measured=measured,
    )


def observations_of(groups: Groups) -> list[Observation]:
    """Return the observation of every group."""
    return [
        Observation(own=own.tolist(), peers=peers[there].tolist())
        for own, peers, there in zip(groups.own, groups.peers, groups.peer_mask, strict=True)
    ]


def _fit_rate(
    views: Sequence[View], agents: Sequence[str], target: Array, used: NDArray[np.bool_]
) -> Rate:
    """Fit one rate on the groups that are used, to the share of each group's rollouts, ``[G]``."""
    chosen = np.flatnonzero(used).tolist()
    names = sorted({agents[i] for i in chosen})
    place = {name: i for i, name in enumerate(names)}
    # Two pretended groups, one of each kind, keep a rate of which little is known near one half.
    x = np.zeros((len(chosen) + 2, len(STANDINGS) + 4 + len(names)))
    x[-2:, len(STANDINGS)] = 1.0
    for row, i in enumerate(chosen):
        view, first = views[i], len(STANDINGS) + 4
        x[row, STANDINGS.index(view.standing)] = 1.0
        x[row, len(STANDINGS) : first] = 1.0, view.confidence, view.rival, view.refined
        x[row, first + place[agents[i]]] = 1.0
    y = np.r_[target[chosen], 0.0, 1.0]
    spread = np.array(
        [STANDING_SPREAD] * len(STANDINGS) + [10.0] + [SLOPE_SPREAD] * 3
        + [AGENT_SPREAD] * len(names)
    )  # fmt: skip
    weights = fit_logistic(x, y, spread).tolist()
    common = weights[len(STANDINGS)]
    return Rate(
        standing={s: common + weights[i] for i, s in enumerate(STANDINGS)},
        confidence=weights[len(STANDINGS) + 1],
        rival=weights[len(STANDINGS) + 2],
        refined=weights[len(STANDINGS) + 3],
        agents=dict(zip(names, weights[len(STANDINGS) + 4 :], strict=True)),
    )


def _mean_tokens(groups: Groups, refined: NDArray[np.bool_]) -> dict[str, float]:
    """Return the mean tokens of a REFINE by agent, and of all under ``""``.

    It is empty where the traces report none.
    """
    spent = np.where(refined & (groups.tokens > 0), groups.tokens, np.nan)
    found = {"": spent}
    found |= {name: spent[groups.agent == i] for i, name in enumerate(groups.agents)}
    return {k: float(np.nanmean(v)) for k, v in found.items() if np.isfinite(v).any()}


def _observed(
    names: Sequence[str], of: Sequence[str], right: Array, after: Array, tried: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Return the plain shares by agent or standing, without a model."""
    label = np.array(of, object)
    rows = {}
    for name in names:
        mine = label == name
        wrong, held = mine & tried & (right == 0), mine & tried & (right == 1)
        rows[name] = {
            "decisions": int(mine.sum()),
            "p": _mean(right[mine & tried if (mine & tried).any() else mine]),
            "h": _mean(after[wrong]),
            "d": _mean(1 - after[held]),
            "refined": int(wrong.sum() + held.sum()),
        }
    return {name: row for name, row in rows.items() if row["decisions"]}


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def describe_gains(gains: Gains) -> str:
    """Return the rates as Markdown: measured shares, and what the rule does with them."""
    parts = []
    for title in ("by agent", "by standing"):
        rows = [
            [name, row["decisions"], *(_two(row[k]) for k in "phd"), row["refined"], _gain(row)]
            for name, row in gains.measured.get(title, {}).items()
        ]
        heading = [title, "decisions", "p", "h", "d", "refined", "(1 − p)·h − p·d"]
        parts.append(table(heading, rows))
    return "\n\n".join(parts)


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _gain(row: dict[str, Any]) -> str:
    if row["h"] is None or row["d"] is None:
        return "–"
    return f"{(1 - row['p']) * row['h'] - row['p'] * row['d']:+.3f}"
