"""The options of a fit: the command line of `fit_router.py`."""

import codecs
import json
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mpdf_langgraph.errors import ConfigurationError
from training.collect.team import Answer
from training.learn.rewards import Weights

Algorithm = Literal["softrankpo", "grpo", "ppo", "awr", "regression", "none"]


@dataclass
class Config:
    """Options of a fit."""

    traces: tuple[Path, ...]
    """Folders of traces (or single segments) to learn from."""
    out: Path = Path("routers/router")
    """The router's folder."""
    labels: Path | None = None
    """JSONL of `episode` (its id) and `reference`, for traces whose truth came late."""
    answer: Answer = "math"
    """How answers are compared with references."""
    most_turns: int = 100_000
    """Turns to read, about. Where the traces hold more, a half, a quarter, ... of the questions is
    read, always the same ones."""
    algorithm: Algorithm = "softrankpo"
    """Second stage. `none` stops after SFT."""
    values: Literal["one-step", "fitted"] = "fitted"
    """What a move is worth to the group: right after it (one-step), or at the end of the
    deliberation, by a value network that is fitted on the traces."""
    consensus: Literal["measured", "learned", "recorded"] = "measured"
    """The consensus rule that rewards go through, and that the router decides by: the one that is
    learned on the traces, or the traces' own. `measured` takes the learned one where it is at least
    as right on what the teams held in the end."""
    policy_iterations: int = 2
    """Times that the second stage is run with fitted values: first as if everybody went on like the
    traces' policy, then as if everybody went on like the policy before."""
    tau: float = 0.8
    """Smoothness of SoftRankPO's ranks, in units of the rewards' spread. 0 takes hard ranks."""
    beta: float = 0.3
    """How closely SoftRankPO stays to the SFT policy. A smaller value moves further."""
    kl_weight: float = 0.01
    """Weight of KL(SFT policy || policy) beside SoftRankPO's own regularisation."""
    clip: float = 0.2
    """Clipping of PPO's and GRPO's ratio."""
    grpo_beta: float = 0.04
    """Weight of GRPO's KL term."""
    awr_temperature: float = 0.3
    """Temperature of AWR's weights."""
    regression_temperature: float = 0.1
    """Rewards apart by so much are e times as probable under the regression's policy."""
    margin: float = 0.02
    """Expected gain over PERSIST from which the regression's policy prefers another action."""
    local: float = 1.0
    """Weight of r_local, the agent's own answer getting right (+1) or wrong (-1)."""
    global_: Annotated[float, tyro.conf.arg(name="global")] = 1.0
    """Weight of r_global, the agent's contribution to the group's answer."""
    cost: float = 0.0
    """Reward taken off per 1,000 tokens."""
    sweep: tuple[float, ...] = ()
    """Further values of `cost` to fit, for the front of accuracy against tokens."""
    label_temperature: float = 0.3
    """Temperature of SFT's labels, softmax(mean reward / label_temperature)."""
    tied_weight: float = 0.1
    """Weight of groups in which every action is worth the same. Their label is PERSIST."""
    disagreement_weight: float = 1.0
    """Further weight of turns whose team disagrees."""
    sft_epochs: int = 30
    """Most epochs of SFT."""
    epochs: int = 30
    """Most epochs of the second stage."""
    patience: int = 6
    """Epochs without a better validation before a stage stops."""
    batch_size: int = 512
    """Groups in a batch. There are more where an epoch would have more than 400 steps."""
    learning_rate: float = 1e-3
    """Learning rate of Adam, in both stages. It falls to zero along a cosine."""
    width: int = 48
    """Width of the policy, a multiple of 4."""
    validation: float = 0.2
    """Share of the questions held out."""
    drawn: bool = False
    """Choose, report and gate the router as it is with drawn actions (`load_router(...,
    greedy=False)`), not with the likeliest ones."""
    temperature: float = 1.0
    """Temperature at which actions are drawn. `load_router` can override it."""
    seed: int = 0
    """Seed of weights and batches, and of which questions are held out."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 1
    """CPU threads. A second one makes a large fit a third faster where its core is free, and any
    fit several times slower where it is not, as beside a server on the same machine."""
    resume: bool = False
    """Go on from the checkpoints in `out`."""

    def weights(self, cost: float | None = None) -> Weights:
        """The reward's weights, at another cost if given."""
        return Weights(self.local, self.global_, self.cost if cost is None else cost)

    @property
    def iterations(self) -> int:
        """How often the second stage is run."""
        return self.policy_iterations if self.values == "fitted" else 1

    def check(self) -> None:
        """Raise `ConfigurationError` for options that cannot work, before anything is read."""
        at_least_0 = "tau kl_weight margin grpo_beta cost tied_weight disagreement_weight seed"
        above_0 = (
            "beta awr_temperature regression_temperature label_temperature learning_rate "
            "temperature"
        )
        whole = "sft_epochs epochs patience batch_size width threads policy_iterations most_turns"
        rules = [
            *[(name, getattr(self, name) >= 0, "0 or more") for name in at_least_0.split()],
            *[(name, getattr(self, name) > 0, "above 0") for name in above_0.split()],
            *[(name, getattr(self, name) >= 1, "1 or more") for name in whole.split()],
            ("clip", 0 < self.clip < 1, "between 0 and 1"),
            ("validation", 0 < self.validation < 1, "between 0 and 1"),
            ("width", self.width % 4 == 0, "a multiple of 4"),
            ("sweep", all(0 <= cost < math.inf for cost in self.sweep), "0 or more"),
            ("sweep", not self.sweep or self.algorithm != "none", "empty without a second stage"),
        ]
        for name, value in vars(self).items():
            if isinstance(value, float):
                rules.append((name, math.isfinite(value), "finite"))
        for name, right, needed in rules:
            if not right:
                option = name.strip("_").replace("_", "-")
                raise ConfigurationError(
                    f"--{option} must be {needed}, got {getattr(self, name)!r}"
                )


def read_labels(path: Path) -> dict[str, str]:
    """Read references by episode id.

    Raises:
        ConfigurationError: The file cannot be read. Or a line of it is not an object with the
            texts (or numbers) `episode` and `reference`, or contradicts an earlier line.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise ConfigurationError(f"--labels {path} cannot be read: {error.strerror}") from error
    labels: dict[str, str] = {}
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            pair = [record[key] for key in ("episode", "reference")]
            if any(isinstance(v, bool) or not isinstance(v, str | int | float) for v in pair):
                raise ValueError(f"got {reprlib.repr(pair)}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigurationError(
                f"{path}:{number}: expected an object with `episode` and `reference`, both texts: "
                f"{error!r}"
            ) from error
        name, label = str(pair[0]), str(pair[1])
        if labels.get(name, label) != label:
            raise ConfigurationError(
                f"{path}:{number}: the reference of episode {name!r:.60} is {label!r:.60} here and "
                f"{labels[name]!r:.60} in line {lines_of[name]}"
            )
        labels[name], lines_of[name] = label, lines_of.get(name, number)
    return labels
