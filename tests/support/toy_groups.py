"""Groups of rollouts made by hand."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mpdf_langgraph.observation import FEATURES
from training.learn.dataset import Groups


class Toy(NamedTuple):
    """One rollout."""

    action: int
    local: float = 0.0
    global_: float = 0.0
    tokens: float = 0.0
    consensus: bool = False
    correct: bool = False


def toy_groups(groups: Sequence[Sequence[Toy]], **arrays: Any) -> Groups:
    """Return groups of one agent without peers, each a question and an episode of its own.

    Args:
        groups: The rollouts of each.
        arrays: What is not so.
    """
    count, most = len(groups), max((len(g) for g in groups), default=0)
    cells = np.zeros((count, most, len(Toy._fields)))
    there = np.zeros((count, most), bool)
    for i, rollouts in enumerate(groups):
        there[i, : len(rollouts)] = True
        for j, rollout in enumerate(rollouts):
            cells[i, j] = rollout
    actions = cells[..., 0].astype(np.int8)
    mask = np.stack([(there & (actions == a)).any(1) for a in range(3)], 1)
    given = {
        "own": np.zeros((count, len(FEATURES)), np.float32),
        "peers": np.zeros((count, 0, len(FEATURES)), np.float32),
        "peer_mask": np.zeros((count, 0), bool),
        "action_mask": mask,
        "actions": actions,
        "local": cells[..., 1].astype(np.float32),
        "global_": cells[..., 2].astype(np.float32),
        "tokens": cells[..., 3].astype(np.float32),
        "rollout_mask": there,
        "consensus": cells[..., 4].astype(bool),
        "correct": cells[..., 5].astype(bool),
        "taken": np.zeros(count, np.int8),
        "behaviour": (mask / np.maximum(1, mask.sum(1, keepdims=True))).astype(np.float32),
        "disagreement": np.zeros(count, bool),
        "question": np.arange(count, dtype=np.int64),
        "episode": np.arange(count, dtype=np.int32),
        "agent": np.zeros(count, np.int16),
        "peer_agent": np.zeros((count, 0), np.int16),
        "round": np.ones(count, np.int16),
        "agents": ["a"],
        **arrays,
    }
    episodes = int(np.max(given["episode"], initial=-1)) + 1
    questions = [f"q{i}" for i in range(int(np.max(given["question"], initial=-1)) + 1)]
    return Groups(**given, questions=questions, episodes=[f"e{i}" for i in range(episodes)])
