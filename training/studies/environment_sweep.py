"""Sweeps the settings of every second stage on validation questions of the known environments.

    python -m training.studies.environment_sweep --out runs/environments

One setting at a time is changed. Every fit has one policy iteration, so that all of them are scored
by the same rewards: those of a turn on the questions that choose the epochs, with the likeliest
actions. The episodes are others than those of the table (`environment_table`). A stopped command
goes on from the fits that are there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.command import run_command
from training.learn.display import table
from training.learn.fit_config import Algorithm
from training.studies.environment_fits import Fits, Settings
from training.studies.environments import ENVIRONMENTS

RATES: tuple[Settings, ...] = ({"learning_rate": 3e-4}, {"learning_rate": 3e-3})
GRID: Mapping[Algorithm, Sequence[Settings]] = {
    "softrankpo": (
        {}, {"tau": 0.4}, {"tau": 1.5}, {"beta": 0.1}, {"beta": 1.0}, *RATES,
    ),
    "ppo": ({}, {"clip": 0.1}, {"clip": 0.4}, *RATES),
    "grpo": ({}, {"grpo_beta": 0.0}, {"grpo_beta": 0.2}, {"clip": 0.4}, *RATES),
    "awr": ({}, {"awr_temperature": 0.1}, {"awr_temperature": 1.0}, *RATES),
    "regression": (
        {}, {"regression_temperature": 0.05}, {"regression_temperature": 0.3}, *RATES,
    ),
}  # fmt: skip
"""Settings to try. An empty one stands for the defaults of `fit_router.py`."""


@dataclass(frozen=True)
class SweepOptions:
    """Options of the sweep."""

    out: Path = Path("runs/environments")
    """Folder for traces and results."""
    environments: tuple[str, ...] = ("relay", "hetero", "concede")
    """Names of the environments: those with something to gain."""
    algorithms: tuple[Algorithm, ...] = tuple(GRID)
    """Second stages."""
    episodes: int = 2000
    """Episodes of each environment."""
    seed: int = 100
    """Seed of the episodes and the fits."""
    batch_size: int = 128
    """Groups in a batch."""


def main(options: SweepOptions) -> str:
    """Return the table of the sweep."""
    fits = {
        name: Fits(
            ENVIRONMENTS[name],
            options.seed,
            options.out,
            episodes=options.episodes,
            policy_iterations=1,
            batch_size=options.batch_size,
        )
        for name in options.environments
    }
    scores: dict[Algorithm, list[list[float]]] = {a: [] for a in options.algorithms}
    for name in options.environments:  # one after another, as each is prepared once
        for algorithm in options.algorithms:
            found = [fits[name].validation(algorithm, one) for one in GRID[algorithm]]
            scores[algorithm].append(found)
    rows: list[list[Any]] = []
    for algorithm in options.algorithms:
        each = np.array(scores[algorithm])
        best = int(each.mean(0).argmax())
        for place, settings in enumerate(GRID[algorithm]):
            told = ", ".join(f"{name} {value:g}" for name, value in settings.items()) or "defaults"
            mean = f"{each[:, place].mean():.4f}"
            figures = [f"{score:.4f}" for score in each[:, place]]
            rows.append([algorithm, told, *figures, f"**{mean}**" if place == best else mean])
    text = table(["second stage", "settings", *options.environments, "mean"], rows)
    print(text, flush=True)
    return text


if __name__ == "__main__":
    run_command(
        main,
        SweepOptions,
        __doc__,
        "stopped; the same command goes on from the fits that are there",
    )
