"""What agents that decide at once lose by it, in the known environments.

    python -m training.studies.environment_coordination --out runs/environments

Three ways of deciding are played exactly (`known_values`):

- at once: the fitted policy as it is. Nobody sees who else refines.
- a cap: of those who want to REFINE, only the surest one or two do. The others take their best
  other action.
- joint values: one network scores every joint action of a team, fitted on draws of the next states
  and on V of the fitted policy. The team takes the best one. No agent decides by itself.

What a row gave is kept, and a stopped command goes on from there.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mpdf_langgraph.learned_router import pad
from mpdf_langgraph.observation import FEATURES, INDEX
from mpdf_langgraph.router import Router
from mpdf_langgraph.state import ACTIONS, Observation
from training.command import run_command
from training.learn.display import table
from training.learn.fitting import probabilities_at
from training.learn.joint_rounds import after, describe, draw_moves
from training.learn.lessons import Lessons
from training.learn.policy import Policy
from training.studies.environment_fits import Fits, Player, remember
from training.studies.environment_table import mean_over_seeds
from training.studies.environments import ENVIRONMENTS
from training.studies.known_values import Value

REFINE = ACTIONS.index("REFINE")
DRAWS, STEPS, BATCH, WIDTH, LEARNING_RATE = 8, 3000, 512, 96, 2e-3


@dataclass(frozen=True)
class CoordinationOptions:
    """Options of the comparison."""

    out: Path = Path("runs/environments")
    """Folder for traces and results, the same as that of the table."""
    environments: tuple[str, ...] = ("relay", "hetero")
    """Names of the environments."""
    episodes: int = 2000
    """Episodes of each fit."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of episodes and fits."""
    batch_size: int = 128
    """Groups in a batch of the fits."""


def main(options: CoordinationOptions) -> str:
    """Return the tables of all environments."""
    parts = []
    for name in options.environments:
        found: dict[str, list[Value]] = {}
        for seed in options.seeds:
            fits = Fits(
                ENVIRONMENTS[name],
                seed,
                options.out,
                episodes=options.episodes,
                batch_size=options.batch_size,
            )
            for title, value in ways(fits).items():
                found.setdefault(title, []).append(value)
        rows = [[title, *mean_over_seeds(values)] for title, values in found.items()]
        parts.append(table([f"{name}, greedy", "accuracy", "tokens", "U"], rows))
        print(parts[-1] + "\n", flush=True)
    return "\n\n".join(parts)


def ways(fits: Fits) -> dict[str, Value]:
    """Return what every way of deciding gives, by its name."""
    team = len(fits.environment.agents)

    def policy() -> Policy:
        return fits.fit_policy("softrankpo")

    makers: dict[str, Callable[[], Router]] = {
        "at once": lambda: Capped(policy(), team, team),
        "at most 2 refine": lambda: Capped(policy(), team, 2),
        "at most 1 refines": lambda: Capped(policy(), team, 1),
        "joint values": lambda: JointChoice(joint_values(fits, policy()), team),
    }
    folder = fits.folder / "coordination"
    return {
        title: Value(*remember(folder / f"{title}.json", lambda m=make: fits.known.value(m())))  # type: ignore[misc]
        for title, make in makers.items()
    }


class Capped(Player):
    """A greedy policy of which at most some agents of a team refine, the surest ones.

    Observations come team by team.
    """

    def __init__(self, policy: Policy, team: int, most: int) -> None:
        super().__init__(policy)
        self.team, self.most = team, most

    def choose(self, logs: Tensor) -> NDArray[np.float64]:
        """See `Player.choose`."""
        wants = logs.double().numpy()
        lead = wants[:, REFINE] - np.delete(wants, REFINE, 1).max(1)
        rank = (-lead.reshape(-1, self.team)).argsort(1).argsort(1).flatten()
        wants[rank >= self.most, REFINE] = -np.inf
        return super().choose(torch.from_numpy(wants))


class JointChoice:
    """The team takes the joint action with the highest score. Observations come team by team.

    `score` makes scores ``[n]`` of features ``[n, N, F + 3]``.
    """

    name, version = "joint", "1"

    def __init__(self, score: nn.Module, team: int) -> None:
        self.score, self.team = score.eval(), team
        joint = itertools.product(range(len(ACTIONS)), repeat=team)
        self.joint = np.array(sorted(joint, key=lambda actions: actions.count(REFINE)))

    @torch.no_grad()
    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        own, _, _, allowed = pad(observations, masks)
        own = own.reshape(-1, self.team, len(FEATURES))
        allowed = allowed.reshape(-1, self.team, len(ACTIONS))
        scores = np.full((len(own), len(self.joint)), -np.inf)
        places = np.arange(self.team)
        for number, actions in enumerate(self.joint):
            possible = allowed[:, places, actions].all(1)
            scores[possible, number] = self.score(_input(own[possible], actions)).numpy()
        rows: list[list[float]] = (
            np.eye(len(ACTIONS))[self.joint[scores.argmax(1)]].reshape(-1, len(ACTIONS)).tolist()
        )
        return rows


def _input(features: NDArray[Any], actions: NDArray[Any]) -> Tensor:
    """Return features with one-hot actions. Who agrees with whom looks is left out."""
    seen = features.astype(np.float32)
    seen[:, :, INDEX["agrees"]] = 0.0
    chosen = np.broadcast_to(actions, seen.shape[:2])
    return torch.from_numpy(
        np.concatenate([seen, np.eye(len(ACTIONS), dtype=np.float32)[chosen]], 2)
    )


def joint_values(fits: Fits, policy: Policy) -> nn.Module:
    """Return a network that scores joint actions: their gain in utility over all persisting."""
    lessons: Lessons = fits.lessons
    ends, config = lessons.ends, fits.config
    assert ends is not None
    at = ends.policy(probabilities_at(policy, lessons.parts, config))
    values, joint = ends.values(at), ends.joint.select(ends.distinct[0][0])
    rng = np.random.default_rng(config.seed)
    every = np.arange(len(joint))
    features, _, _ = describe(joint, every, joint.before, later=False)
    evenly = np.full((len(joint), joint.before.shape[1], len(ACTIONS)), 1 / len(ACTIONS))

    def utility(moves: NDArray[Any]) -> NDArray[Any]:
        held, persisted, tokens = after(joint, every, moves)
        found = values.next(joint, every, held, persisted)
        return np.asarray(found.right - config.cost / 1000 * (tokens + found.tokens))

    nothing = utility(np.zeros_like(joint.taken))
    inputs, targets = [], []
    rows, places = every[:, None], np.arange(joint.before.shape[1])
    for _ in range(DRAWS):
        moves = draw_moves(joint, every, evenly, rng)
        inputs.append(_input(features, joint.action[rows, places, moves]))
        targets.append(torch.from_numpy(utility(moves) - nothing).float())
    given, target = torch.cat(inputs), torch.cat(targets)
    torch.manual_seed(config.seed)
    mean, spread = given.mean((0, 1)), given.std((0, 1)).clamp_min(1e-3)
    network = nn.Sequential(
        _Scale(mean, spread),
        nn.Flatten(),
        nn.Linear(given.shape[1] * given.shape[2], WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, 1),
        nn.Flatten(0),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        batch = torch.randint(len(given), (BATCH,))
        loss = nn.functional.mse_loss(network(given[batch]), target[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network


class _Scale(nn.Module):
    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.mean, self.spread = mean, spread

    def forward(self, values: Tensor) -> Tensor:
        return ((values - self.mean) / self.spread).clamp(-5, 5)


if __name__ == "__main__":
    stopped = "stopped; the same command goes on from here"
    run_command(main, CoordinationOptions, __doc__, stopped)
