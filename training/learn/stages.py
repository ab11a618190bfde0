"""The two stages of a fit: SFT, then SoftRankPO or another loss, each until it stops gaining."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mpdf_langgraph.errors import MPDFError
from training.learn import losses, softrankpo
from training.learn.checkpoints import Log, save_checkpoint
from training.learn.fit_config import Config
from training.learn.off_policy import to_plain
from training.learn.policy import Policy
from training.learn.tensors import Data, log_probabilities, rows_of


def advantages_of(config: Config, data: Data, reward_scale: float = 1.0) -> tuple[Tensor, float]:
    """Return SoftRankPO's advantages on the training groups, ``[G, K]``, and their scale s."""
    rewards = data.rewards * reward_scale
    scale = softrankpo.reward_scale(rewards, data.mask)
    found = softrankpo.advantages(rewards, tau=config.tau, scale=scale, mask=data.mask)
    return found.float(), scale


LossFunction = Callable[[Policy, Data, Tensor, Tensor | None], tuple[Tensor, dict[str, float]]]
"""From the policy, the groups, a batch's indices and, for PPO and GRPO alone, the
log-probabilities ``[G, 3]`` that the policy had when the epoch began, to the loss and what to
log."""
MOST_STEPS = 400
"""Steps of an epoch, at most: beyond, batches get larger, as small ones cost twice the time."""


def sft_loss(
    policy: Policy, data: Data, index: Tensor, old: Tensor | None
) -> tuple[Tensor, dict[str, float]]:
    """Return the weighted cross-entropy with the oracle's actions.

    Actions without a rollout are masked, and the probabilities of the rest renormalised.
    """
    logp = policy(*rows_of(index, *data.observation))
    actions, mask, labels, weights = rows_of(
        index, data.actions, data.mask, data.labels, data.weights
    )
    tries = torch.zeros_like(logp).scatter_add(1, actions, mask.to(logp))
    logp = logp.masked_fill(tries == 0, -1e9).log_softmax(1)
    losses = -(labels * torch.where(labels > 0, logp, 0.0)).sum(1)
    return softrankpo.weighted_mean(losses, weights), {}


def second_stage_loss(
    config: Config, reference: Policy, data: Data, reward_scale: float = 1.0
) -> LossFunction:
    """Return the loss of `config.algorithm`. What is constant is computed once, here.

    PPO and GRPO take the policy at the beginning of each epoch as their old one.
    """
    reference_logp = log_probabilities(reference, data)
    advantages, _ = advantages_of(config, data, reward_scale)

    def loss(policy: Policy, data: Data, index: Tensor, old: Tensor | None) -> Any:
        every = policy(*rows_of(index, *data.observation))
        actions, mask, weights, reference_every, targets = rows_of(
            index, data.actions, data.mask, data.weights, reference_logp, advantages
        )
        logp = every.gather(1, actions)
        ref_logp = reference_every.gather(1, actions)
        if config.algorithm == "softrankpo":
            value, shown = softrankpo.loss(
                logp, ref_logp, targets, beta=config.beta, mask=mask, weights=weights
            )
            each = softrankpo.kl(reference_every, every)
            kl = softrankpo.weighted_mean(each, weights)
            return value + config.kl_weight * kl, {**shown, "kl": kl.item()}
        rewards = (data.rewards[index] * reward_scale).float()
        share = weights[:, None]
        if config.algorithm == "awr":
            each = share * losses.enumeration_weights(ref_logp, actions, mask)
            return losses.awr(
                logp, rewards, temperature=config.awr_temperature, mask=mask, weights=each
            )
        if config.algorithm == "regression":
            return losses.regression(
                logp,
                rewards,
                temperature=config.regression_temperature,
                margin=config.margin,
                mask=mask,
                weights=weights,
            )
        assert old is not None
        old_logp = old[index].gather(1, actions)
        each = share * losses.enumeration_weights(old_logp, actions, mask)
        if config.algorithm == "grpo":
            return losses.grpo(
                logp,
                old_logp,
                ref_logp,
                rewards,
                clip=config.clip,
                beta=config.grpo_beta,
                mask=mask,
                weights=each,
            )
        gaps = losses.center_rewards(rewards, mask=mask, weights=each)
        return losses.ppo(logp, old_logp, gaps, clip=config.clip, mask=mask, weights=each)

    return loss


def run_stage(
    stage: str,
    policy: Policy,
    loss_of: LossFunction,
    score_of: Callable[[Policy], float],
    data: Data,
    validation: Data,
    epochs: int,
    config: Config,
    log: Log,
) -> None:
    """Train `policy` in place until validation stops improving, and leave it at its best.

    An epoch depends on the seed, its number and the checkpoint before it alone, and every epoch
    ends with a checkpoint: a resumed run repeats the interrupted epoch and its losses.

    Raises:
        MPDFError: The loss is not finite.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, fused=True)
    checkpoint = config.out / "checkpoints" / f"{stage}.pt"
    if config.resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location=config.device, weights_only=True)
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        for row in state["rows"]:
            log.write(row)
    else:
        state = {"epoch": 0, "since": 0, "rows": [], "best": score_of(policy)}
        state["best_policy"] = copy.deepcopy(policy.state_dict())
    batch = max(config.batch_size, -(-len(data) // MOST_STEPS))
    steps = -(-len(data) // batch)
    on_policy = config.algorithm in ("ppo", "grpo") and stage != "sft"
    bar = tqdm(desc=stage, initial=state["epoch"], total=epochs, unit="epoch")
    while state["epoch"] < epochs and state["since"] < config.patience:
        epoch = state["epoch"]
        shuffle = torch.Generator().manual_seed(epoch_seed(config.seed, stage, epoch))
        order = torch.randperm(len(data), generator=shuffle).to(config.device)
        old = log_probabilities(policy, data) if on_policy else None
        policy.train()
        totals: dict[str, float] = {}
        for step in range(steps):
            done = (epoch + step / steps) / epochs
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done)) / 2
            index = order[step * batch : (step + 1) * batch]
            loss, shown = loss_of(policy, data, index, old)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            for name, value in {"loss": loss.item(), **shown}.items():
                totals[name] = totals.get(name, 0.0) + value / steps
        if not math.isfinite(totals["loss"]):
            raise MPDFError(
                f"{stage}: the loss is {totals['loss']} in epoch {epoch + 1}; lower --learning-rate"
            )
        score = score_of(policy)
        probabilities = log_probabilities(policy, validation).exp()
        actions, untied = probabilities.mean(0), probabilities[~validation.tied].mean(0)
        row = {"stage": stage, "epoch": epoch + 1, **totals, "validation": score}
        row |= dict(zip(("persist", "refine", "concede"), actions.tolist(), strict=True))
        row |= {"persist_untied": untied[0].item(), "refine_untied": untied[1].item()}
        state["since"] += 1
        if score > state["best"] + 1e-6:
            state |= {"best": score, "since": 0}
            state["best_policy"] = copy.deepcopy(policy.state_dict())
        state["rows"].append(to_plain(row))
        state |= {"epoch": epoch + 1, "policy": policy.state_dict()}
        state["optimizer"] = optimizer.state_dict()
        save_checkpoint(state, checkpoint)
        log.write(to_plain(row))
        bar.set_postfix_str(f"loss {totals['loss']:.4f} validation {score:.4f}", refresh=False)
        bar.update()
    bar.close()
    policy.load_state_dict(state["best_policy"])


def stage_name(algorithm: str, cost: float, iteration: int = 1) -> str:
    """Return the name of a second stage and of its checkpoint. `iteration` counts from 1."""
    name = f"{algorithm}-cost-{cost:g}"
    return name if iteration == 1 else f"{name}-iteration-{iteration}"


def epoch_seed(seed: int, stage: str, epoch: int) -> int:
    """Return a seed of its own for every epoch of every stage."""
    return int(np.random.SeedSequence([seed, epoch, *stage.encode()]).generate_state(1)[0])
