"""Groups as tensors, and what a policy makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpdf_langgraph.observation import INDEX
from mpdf_langgraph.state import CHEAPEST_FIRST
from training.learn.dataset import Groups
from training.learn.fit_config import Config
from training.learn.off_policy import Array, expect
from training.learn.policy import Policy
from training.learn.rewards import TOLERANCE

#: As many groups at a time as the processor's cache holds.
_CHUNK = 8_192


@dataclass
class Data:
    """Groups as tensors: ``G`` groups, up to ``P`` peers and ``K`` rollouts.

    Attributes:
        observation: own ``[G, F]``, peers ``[G, P, F]``, peer mask ``[G, P]``, action mask
            ``[G, 3]``: the policy's arguments.
        actions: Action of every rollout, ``[G, K]``.
        mask: Which rollouts are real, ``[G, K]``.
        rewards: ``[G, K]``.
        labels: SFT targets, ``[G, 3]``.
        weights: Weight of each group, ``[G]``.
        tied: Every rollout is worth the same but for its tokens, ``[G]``.
    """

    observation: tuple[Tensor, Tensor, Tensor, Tensor]
    actions: Tensor
    mask: Tensor
    rewards: Tensor
    labels: Tensor
    weights: Tensor
    tied: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def untied(self) -> Tensor:
        """Which rollouts are real and of groups that are not tied, ``[G, K]``."""
        return self.mask & ~self.tied[:, None]


def to_data(groups: Groups, config: Config, cost: float, *, hard_labels: bool = False) -> Data:
    """Turn groups, as the policy sees them, into tensors with rewards, labels and weights.

    `cost` is taken off per 1,000 tokens. With `hard_labels` the label is the best action alone,
    also where an action almost ties with it.
    """
    weights = config.weights(cost)
    rewards = groups.rewards(weights)
    # Where accuracy ties there is nothing to buy, whatever tokens cost: the cheapest action is the
    # label, and the little weight of such turns stays.
    accuracy = groups.rewards(replace(weights, cost=0.0))
    low = np.where(groups.rollout_mask, accuracy, np.inf).min(1)
    high = np.where(groups.rollout_mask, accuracy, -np.inf).max(1)
    tied = high - low < TOLERANCE
    labels = np.eye(3, dtype=np.float32)[groups.labels(weights)]
    if not hard_labels:
        soft = groups.soft_labels(weights, config.label_temperature)
        labels = np.where(tied[:, None], labels, soft)
    group_weights = np.where(tied, config.tied_weight, 1.0)
    group_weights = group_weights * np.where(groups.disagreement, config.disagreement_weight, 1.0)

    def tensor(array: Any, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array)).to(config.device, dtype)

    return Data(
        observation=(
            tensor(groups.own, torch.float32),
            tensor(groups.peers, torch.float32),
            tensor(groups.peer_mask, torch.bool),
            tensor(groups.action_mask, torch.bool),
        ),
        actions=tensor(groups.actions, torch.long).clamp(min=0),
        mask=tensor(groups.rollout_mask, torch.bool),
        rewards=tensor(rewards, torch.float64),
        labels=tensor(labels, torch.float32),
        weights=tensor(group_weights, torch.float32),
        tied=tensor(tied, torch.bool),
    )


def rows_of(index: Tensor, *parts: Tensor) -> list[Tensor]:
    """Return some rows of each part. It takes a third of the time of ``part[index]``."""
    return [part.index_select(0, index) for part in parts]


def set_competence(groups: Groups, competence: Mapping[str, float]) -> Groups:
    """Return the groups with the agents' prior competence among their features."""
    own, peers = groups.own.copy(), groups.peers.copy()
    by_agent = np.array([competence.get(name, 0.5) for name in groups.agents], np.float32)
    if len(by_agent):
        own[:, INDEX["competence"]] = by_agent[groups.agent]
        peers[:, :, INDEX["competence"]] = by_agent[groups.peer_agent]
    return replace(groups, own=own, peers=peers)


def estimate_competence(groups: Groups) -> dict[str, float]:
    """Estimate each agent's prior competence: its share of right proposals, smoothed.

    Only questions with a decision count: where all agree at once there is nothing to tell apart.
    """
    result = {}
    right = groups.held_right
    for index, name in enumerate(groups.agents):
        chosen = (groups.agent == index) & (groups.round == 1)
        result[name] = float((right[chosen].sum() + 1) / (chosen.sum() + 2))
    return result


@torch.no_grad()
def log_probabilities(policy: Policy, data: Data) -> Tensor:
    """Return the policy's log-probabilities of the three actions, ``[G, 3]``."""
    policy.eval()
    parts = [
        policy(*(part[start : start + _CHUNK] for part in data.observation))
        for start in range(0, max(1, len(data)), _CHUNK)
    ]
    return torch.cat(parts)


def decisions_of(logs: Tensor, *, drawn: bool, temperature: float = 1.0) -> Array:
    """Return the probabilities that a router decides by, ``[G, 3]``: greedy, or drawn."""
    logs = logs.double().cpu()
    if drawn:
        return np.asarray((logs / temperature).softmax(-1).numpy())
    order = torch.tensor(CHEAPEST_FIRST)
    return np.asarray(torch.eye(3).double()[order[logs[:, order].argmax(1)]].numpy())


def expected_reward(policy: Policy, data: Data, groups: Groups, *, drawn: bool) -> float:
    """Return the expected reward of a turn: the yardstick of one-step values."""
    probabilities = decisions_of(log_probabilities(policy, data), drawn=drawn)
    return float(expect(groups.action_means(data.rewards.cpu().numpy()), probabilities).mean())
