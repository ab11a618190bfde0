"""The options of a fit: the command line of `fit_router.py`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mpdf_langgraph.errors import ConfigurationError
from training.rewards import Weights

Algorithm = Literal["softrankpo", "grpo", "ppo", "awr", "none"]


@dataclass
class Config:
    """Options of a fit."""

    traces: tuple[Path, ...]
    """Folders of traces (or single segments) to learn from."""
    out: Path = Path("routers/router")
    """The router's folder."""
    labels: Path | None = None
    """JSONL of `episode` (its id) and `reference`, for traces whose truth came late."""
    answer: Literal["math", "choice", "text"] = "math"
    """How answers are compared with references."""
    algorithm: Algorithm = "softrankpo"
    """Second stage; `none` stops after SFT."""
    tau: float = 0.8
    """Smoothness of SoftRankPO's ranks, in units of the rewards' spread; 0 takes hard ranks."""
    beta: float = 0.3
    """How closely SoftRankPO and GRPO stay to the SFT policy; smaller moves further."""
    kl_weight: float = 0.01
    """Weight of KL(SFT policy || policy) beside SoftRankPO's own regularisation."""
    clip: float = 0.2
    """Clipping of PPO's and GRPO's ratio."""
    awr_temperature: float = 0.3
    """Temperature of AWR's weights."""
    local: float = 1.0
    """Weight of r_local, the agent's own answer getting right (+1) or wrong (-1)."""
    global_: float = 1.0
    """Weight of r_global, the agent's contribution to the group's answer."""
    cost: float = 0.0
    """Reward taken off per 1,000 tokens."""
    sweep: tuple[float, ...] = ()
    """Further values of `cost` to fit, for the front of accuracy against tokens."""
    reward_scale: float = 1.0
    """Multiplies all rewards; SoftRankPO must not care (an ablation, not a knob)."""
    hard_labels: bool = False
    """SFT on the best action alone, instead of softmax(mean reward / label_temperature)."""
    label_temperature: float = 0.3
    """Temperature of the soft labels."""
    tied_weight: float = 0.1
    """Weight of groups in which every action is worth the same; their label is PERSIST."""
    disagreement_weight: float = 1.0
    """Further weight of turns whose team disagrees."""
    sft_epochs: int = 30
    """Most epochs of SFT."""
    epochs: int = 30
    """Most epochs of the second stage."""
    patience: int = 6
    """Epochs without a better validation before a stage stops."""
    batch_size: int = 512
    """Groups in a batch."""
    learning_rate: float = 1e-3
    """Of Adam, in both stages; falls to zero along a cosine."""
    width: int = 32
    """Width of the policy."""
    validation: float = 0.2
    """Share of the questions held out."""
    temperature: float = 1.0
    """Temperature at which the deployed router draws; `load_router` can override it."""
    seed: int = 0
    """Seed of weights and batches."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 2
    """CPU threads."""
    resume: bool = False
    """Go on from the checkpoints in `out`."""
    hidden: tuple[str, ...] = ()
    """Features to blank out, by name (ablations)."""
    blind: bool = False
    """Hide the peers (an ablation)."""

    def weights(self, cost: float | None = None) -> Weights:
        """The reward's weights, at another cost if given."""
        return Weights(self.local, self.global_, self.cost if cost is None else cost)


def read_labels(path: Path) -> dict[str, str]:
    """Reads references by episode id.

    Raises:
        ConfigurationError: A line is not JSON, or lacks `reference` or its key.
    """
    labels = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            labels[str(record["episode"])] = str(record["reference"])
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigurationError(
                f"{path}:{number}: expected an object with `episode` and `reference`: {error!r}"
            ) from error
    return labels
