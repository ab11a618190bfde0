"""The losses that SoftRankPO is compared with: PPO, GRPO, AWR, and a regression on rewards.

The first three are written for rollouts *drawn* from the old policy. Here a group is *enumerated*:
one PERSIST, one CONCEDE, several REFINEs, however likely each action was. Every expectation
under the old policy is therefore a sum with the weights π_old(a_i)/n_{a_i}, n_a the number of
rollouts with action a in the group: see `enumeration_weights`. With them, and every allowed
action in the group, the first gradient is the exact policy gradient, and more copies of an
action change nothing. Without them four REFINEs would count four times.

Pure functions of tensors, shapes ``[G, K]`` as in `training.learn.softrankpo`: `mask` is True at
real rollouts. `logp` is log π_θ of each rollout's action, and gradients flow into it alone.
`weights` are per *rollout* (times the group's weight, where groups have one), and a loss is the
weighted mean. Those of the regression are per *group*. Without `weights` rollouts count as drawn:
equally within a group, as do the groups.
A wrong shape, a reward that is not finite, a negative weight and an option out of range raise
`ConfigurationError`.
"""

import math

import torch
from torch import Tensor

from mpdf_langgraph.errors import ConfigurationError
from training.learn.softrankpo import (
    check_rewards,
    check_weights,
    real_cells,
    same_shape,
    weighted_mean,
)

#: Added to a group's standard deviation in GRPO, as its public implementations do.
GRPO_EPSILON = 1e-4
#: Largest weight of a rollout in AWR, the paper's.
AWR_MAX_WEIGHT = 20.0


def enumeration_weights(old_logp: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return π_old(a_i)/n_{a_i}, which make enumerated rollouts stand for drawn ones.

    `actions` are the index of each rollout's action. The weights have the dtype of `old_logp`, no
    gradient, and are 0 where masked. Those of a group sum to 1 where every allowed action is among
    its rollouts.
    """
    same_shape(old_logp=old_logp, actions=actions)
    mask = real_cells(old_logp, mask)
    same = (actions[:, :, None] == actions[:, None, :]) & mask[:, None, :]
    probability = torch.where(mask, old_logp.detach(), 0.0).exp()
    return torch.where(mask, probability / same.sum(-1).clamp_min(1), 0.0)


def _rollout_weights(mask: Tensor, weights: Tensor | None) -> Tensor:
    """Return float64 weights ``[G, K]``, 0 where masked."""
    if weights is None:
        return mask.double() / mask.sum(-1, keepdim=True).clamp_min(1)
    same_shape(rollouts=mask, weights=weights)
    return check_weights(torch.where(mask, weights.double(), 0.0))


def _shares(weights: Tensor, over: int | tuple[int, int]) -> Tensor:
    """Return weights scaled to sum to 1 over some dimensions. All 0 stay 0."""
    total = weights.sum(over, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def center_rewards(
    rewards: Tensor, *, mask: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return R minus the group's weighted mean: the advantage over the old policy's value.

    With enumeration weights that mean is V(o) = E_{π_old}[R] itself, so that PPO and AWR need no
    learned critic for these one-step rewards. The result has the dtype of `rewards` and no
    gradient. It is 0 where masked, and exactly 0 throughout a group whose rewards are all equal.
    """
    mask = real_cells(rewards, mask)
    r = check_rewards(rewards, mask)
    share = _shares(_rollout_weights(mask, weights), over=-1)
    # Measured from the lowest: no rounding where all are equal.
    low = torch.where(mask, r, math.inf).amin(-1, keepdim=True)
    above = torch.where(mask, r - low, 0.0)
    mean = (share * above).sum(-1, keepdim=True)
    return torch.where(mask, above - mean, 0.0).to(rewards.dtype)


def _log_ratio(logp: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return log π_θ − log π_other, 0 where masked, with no gradient from there."""
    return torch.where(mask, logp - other.detach(), 0.0)


def _k3(log_ratio: Tensor) -> Tensor:
    """Return q/p − 1 − log(q/p) ≥ 0, whose mean under p is KL(p‖q) (Schulman's k3)."""
    return torch.expm1(log_ratio) - log_ratio


def _clipped_loss(
    log_ratio: Tensor, advantages: Tensor, clip: float, weight: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Return −Σ w·min(ρA, clip(ρ)A), and what became of the ratios ρ."""
    if not 0 < clip < 1:
        raise ConfigurationError(f"clip={clip!r}: use a number between 0 and 1")
    ratio = log_ratio.exp()
    held = ratio.clamp(1 - clip, 1 + clip)
    value = -(weight * torch.minimum(ratio * advantages, held * advantages)).sum()
    return value, {
        "clip_fraction": (weight * ((ratio - 1).abs() > clip)).sum().item(),
        "kl_old": (weight * _k3(log_ratio.detach())).sum().item(),
    }


def ppo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    *,
    clip: float = 0.2,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return PPO's clipped surrogate, negated.

    Equation 7 of Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347),
    without value loss and entropy bonus.

    Args:
        logp: Of each rollout's action.
        old_logp: The same, as it was when this update began.
        advantages: E.g. `center_rewards`.
        clip: ε: the ratio π_θ/π_old is held within 1 ± ε where leaving it would gain.
        mask: Real rollouts.
        weights: Per rollout.

    Returns:
        The loss, and diagnostics: ``loss``, ``clip_fraction`` (weighted share of ratios outside
        1 ± ε), ``kl_old`` (KL(π_old‖π_θ), exact for enumerated rollouts).
    """
    same_shape(logp=logp, old_logp=old_logp, advantages=advantages)
    mask = real_cells(logp, mask)
    weight = _shares(_rollout_weights(mask, weights), over=(0, 1)).to(logp.dtype)
    constant = torch.where(mask, advantages.detach(), 0.0).to(logp.dtype)
    value, diagnostics = _clipped_loss(_log_ratio(logp, old_logp, mask), constant, clip, weight)
    return value, {"loss": value.item(), **diagnostics}


def grpo(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor,
    rewards: Tensor,
    *,
    clip: float = 0.2,
    beta: float = 0.04,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return GRPO's objective, negated: the clipped surrogate less β·KL to the reference.

    Shao et al., "DeepSeekMath" (arXiv 2402.03300), equations 3 and 4: advantages (R − mean)/(std +
    1e-4) over the group, KL by the k3 estimator. Its mean and standard deviation estimate those
    under the old policy, so they are weighted as well. The deviation is the population's, for the
    weights make it an expectation and not a sample. `clip` is as in `ppo`. `beta` weighs the KL
    term to the frozen SFT policy (`ref_logp`). Its default is the paper's.

    Returns:
        The loss, and diagnostics: those of `ppo`, and ``kl_ref`` (the k3 estimate of
        KL(π_θ‖π_ref), which is exact where π_θ = π_old and the rollouts are enumerated).
    """
    if not (math.isfinite(beta) and beta >= 0):
        raise ConfigurationError(f"beta={beta!r}: use a number that is not negative")
    same_shape(logp=logp, old_logp=old_logp, ref_logp=ref_logp, rewards=rewards)
    mask = real_cells(logp, mask)
    raw = _rollout_weights(mask, weights)
    gap = center_rewards(rewards.double(), mask=mask, weights=raw)
    deviation = (_shares(raw, over=-1) * gap**2).sum(-1, keepdim=True).sqrt()
    advantages = (gap / (deviation + GRPO_EPSILON)).to(logp.dtype)
    weight = _shares(raw, over=(0, 1)).to(logp.dtype)
    surrogate, diagnostics = _clipped_loss(
        _log_ratio(logp, old_logp, mask), advantages, clip, weight
    )
    kl_ref = (weight * _k3(-_log_ratio(logp, ref_logp, mask))).sum()
    value = surrogate + beta * kl_ref
    return value, {"loss": value.item(), **diagnostics, "kl_ref": kl_ref.item()}


def _cells_at(temperature: float, logp: Tensor, rewards: Tensor, mask: Tensor | None) -> Tensor:
    """Check what a loss with a temperature is given, and return the mask of real rollouts."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigurationError(f"temperature={temperature!r}: use a positive number")
    same_shape(logp=logp, rewards=rewards)
    return real_cells(logp, mask)


def awr(
    logp: Tensor,
    rewards: Tensor,
    *,
    temperature: float,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return AWR's weighted log-likelihood, negated: −E_{π_old}[min(exp(A/T), 20)·log π_θ].

    Peng et al., "Advantage-Weighted Regression" (arXiv 1910.00177), with A from `center_rewards`.
    Its minimum is π(a) ∝ π_old(a) times the mean weight of the rollouts with action a. As that is a
    mean of exponentials, it leans towards actions whose rewards vary. `temperature` is T, in the
    rewards' unit: lower is greedier, until the clipping at 20.

    Returns:
        The loss, and diagnostics: ``loss``, ``clip_fraction`` (weighted share of rollouts whose
        weight is held at 20).
    """
    mask = _cells_at(temperature, logp, rewards, mask)
    raw = _rollout_weights(mask, weights)
    gap = center_rewards(rewards.double(), mask=mask, weights=raw)
    factor = (gap / temperature).exp()
    weight = _shares(raw, over=(0, 1))
    constant = (weight * factor.clamp_max(AWR_MAX_WEIGHT)).to(logp.dtype)
    value = -(constant * torch.where(mask, logp, 0.0)).sum()
    return value, {
        "loss": value.item(),
        "clip_fraction": (weight * (factor > AWR_MAX_WEIGHT)).sum().item(),
    }


def regression(
    logp: Tensor,
    rewards: Tensor,
    *,
    temperature: float,
    margin: float = 0.0,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the squared error of expected rewards, read off a policy's log-odds.

    T·(log π(a) − log π(PERSIST)) is fitted to R(a) − R(PERSIST), less a margin for every action but
    PERSIST. Its minimum is π(a) ∝ exp(E[R(a)]/T): the most probable action is the one with the best
    expected reward, if it beats PERSIST by the margin. The first rollout is PERSIST, as it is in
    every group. T and the margin are in the rewards' unit. Here `weights` are those of the groups,
    ``[G]``, and the loss is the weighted mean.

    Returns:
        The loss, and diagnostics: ``loss``.
    """
    mask = _cells_at(temperature, logp, rewards, mask)
    others = mask.clone()
    others[:, :1] = False
    gain = check_rewards(rewards, mask).to(logp.dtype)
    target = (gain - gain[:, :1] - margin) / temperature
    known = torch.where(mask, logp, 0.0)
    errors = torch.where(others, (known - known[:, :1] - target) ** 2, 0.0).sum(-1)
    errors = errors / others.sum(-1).clamp_min(1)
    counted = torch.ones_like(errors) if weights is None else check_weights(weights)
    value = weighted_mean(errors, counted.to(errors.dtype))
    return value, {"loss": value.item()}
