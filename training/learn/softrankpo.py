"""SoftRankPO: advantages from the ranks of rewards, and the regression onto them.

The method is that of Yang & Thomason, "Learning to Deliberate" (arXiv 2509.03817). Per group,
the K rollouts that share one state of the router:

    u_i = (1/K) Σ_j σ((R_i − R_j) / (s·τ))          smooth rank as a percentile
    A_i = Φ⁻¹(u_i) − mean_j Φ⁻¹(u_j)                normal quantile (van der Waerden), centred
    h_i = log π_θ(a_i|o) − log π_ref(a_i|o)
    L   = mean_i (β·(h_i − h̄) − A_i)²

With every allowed action in the group, L has its minimum at π*(a) ∝ π_ref(a)·exp(Ā(a)/β), Ā(a)
the mean advantage of the rollouts with action a: the policy that trades Ā against β·KL to the
reference. As h̄ is taken over the group, the partition function of π* cancels.

Pure functions of tensors, shapes ``[G, K]``: groups by rollouts. Groups of different sizes are
padded. `mask` is True at real rollouts, and what stands elsewhere (NaN too) has no effect.
A wrong shape, a reward that is not finite, a negative weight and an option out of range raise
`ConfigurationError`.
"""

import math

import torch
from torch import Tensor

from mpdf_langgraph.errors import ConfigurationError

_CHUNK = 65_536


def real_cells(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask of real rollouts, all of them where `mask` is None.

    Raises:
        ConfigurationError: `values` is not a floating tensor ``[G, K]``, or `mask` is not a
            boolean one of that shape.
    """
    if values.ndim != 2 or not values.is_floating_point():
        raise ConfigurationError(
            f"expected a floating tensor [groups, rollouts], got {values.dtype} "
            f"{list(values.shape)}"
        )
    if mask is None:
        return torch.ones_like(values, dtype=torch.bool)
    if mask.shape != values.shape or mask.dtype != torch.bool:
        raise ConfigurationError(
            f"mask: expected bool {list(values.shape)}, got {mask.dtype} {list(mask.shape)}"
        )
    return mask


def same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of unequal shapes (`ConfigurationError`), as broadcasting would hide them."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ConfigurationError(f"expected tensors of one shape, got {shapes}")


def check_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return the rewards as constants in float64, 0 where masked.

    Raises:
        ConfigurationError: A real rollout's reward is not finite.
    """
    filled = torch.where(mask, rewards.detach().double(), 0.0)
    if not torch.isfinite(filled).all():
        raise ConfigurationError("rewards: every real rollout needs a finite one")
    return filled


def check_weights(weights: Tensor) -> Tensor:
    """Return weights as constants. A negative or infinite one is a `ConfigurationError`."""
    weights = weights.detach()
    if not (torch.isfinite(weights) & (weights >= 0)).all():
        raise ConfigurationError("weights: expected finite, non-negative numbers")
    return weights


def group_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over each group's real rollouts, shape ``[G]``, 0 for an empty group."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp_min(1)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over groups, 0 if all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def reward_scale(rewards: Tensor, mask: Tensor | None = None) -> float:
    """Return s, the rewards' pooled within-group standard deviation, 1.0 if every group is tied.

    The root of Σ_g Σ_i (R_gi − R̄_g)² / Σ_g (K_g − 1) over the groups that are not all tied. Within
    a group, as the parts of a reward that do not depend on the action cancel there but would
    inflate a global deviation. Without the tied groups, as otherwise their share would set how
    sharp the ranks are. Fit it once, on the training split, and keep it.
    """
    mask = real_cells(rewards, mask)
    r = check_rewards(rewards, mask)
    low = torch.where(mask, r, math.inf).amin(-1, keepdim=True)
    above = torch.where(mask, r - low, 0.0)
    untied = (above > 0).any(-1)
    if not untied.any():
        return 1.0
    above, mask = above[untied], mask[untied]
    unit = above.max()  # squares of very small or large rewards would leave the range of floats
    gap = above / unit
    gap = torch.where(mask, gap - group_mean(gap, mask)[:, None], 0.0)
    return float(unit * ((gap**2).sum() / (mask.sum() - len(mask))).sqrt())


def soft_ranks(rewards: Tensor, *, tau: float, scale: float, mask: Tensor | None = None) -> Tensor:
    """Return u, each rollout's smooth rank within its group as a percentile.

    `tau` is the softness in units of `scale` (s, see `reward_scale`). 0 gives the average ranks,
    (rank − ½)/K, which any increasing map of the rewards leaves as they are.

    Returns:
        float64 ``[G, K]`` in [1/2K, 1 − 1/2K], summing to K/2 in every group, 0 where masked.
    """
    if not (math.isfinite(tau) and tau >= 0 and math.isfinite(scale) and scale > 0):
        raise ConfigurationError(f"tau={tau!r}, scale={scale!r}: use tau >= 0 and scale > 0")
    mask = real_cells(rewards, mask)
    r = check_rewards(rewards, mask)
    total = torch.empty_like(r)
    for start in range(0, len(r), _CHUNK):  # as pairs take K times the memory of the rewards
        part = slice(start, start + _CHUNK)
        gap = r[part, :, None] - r[part, None, :]
        # Divided one by one: the product may underflow, and a tie must give ½, not 0/0.
        wins = torch.sigmoid(gap / scale / tau) if tau > 0 else (gap.sign() + 1) / 2
        total[part] = torch.where(mask[part, None, :], wins, 0.0).sum(-1)
    return torch.where(mask, total / mask.sum(-1, keepdim=True).clamp_min(1), 0.0)


def advantages(rewards: Tensor, *, tau: float, scale: float, mask: Tensor | None = None) -> Tensor:
    """Return A, the centred normal quantiles of the smooth ranks (see `soft_ranks`).

    Constants, computed in float64. Exactly 0 throughout a group whose rewards are all equal (ranks
    by sorting would favour whichever rollout stands first). Their spread depends on `tau`, so that
    two values of it differ also in how far they let the policy move. They have the dtype of
    `rewards`, the mean 0 in every group, and are 0 where masked.
    """
    mask = real_cells(rewards, mask)
    ranks = soft_ranks(rewards, tau=tau, scale=scale, mask=mask)
    quantiles = torch.special.ndtri(torch.where(mask, ranks, 0.5))
    centred = quantiles - group_mean(quantiles, mask)[:, None]
    return torch.where(mask, centred, 0.0).to(rewards.dtype)


def loss(
    logp: Tensor,
    ref_logp: Tensor,
    advantages: Tensor,
    *,
    beta: float,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean over groups of mean_i (β·(h_i − h̄) − A_i)².

    Args:
        logp: log π_θ of each rollout's action. Gradients flow into it alone.
        ref_logp: log π_ref of the same, the frozen SFT policy.
        advantages: See `advantages`.
        beta: Price of leaving the reference: larger stays nearer.
        mask: Real rollouts. A group without any does not count.
        weights: Groups' weights, ``[G]``. The loss is the weighted mean, 0 if all are 0.

    Returns:
        The loss, and diagnostics: ``loss``, ``advantage_std`` (over real rollouts),
        ``tied`` (share of groups with no advantage anywhere), ``drift_std`` (of h − h̄, how far
        the policy is from the reference).
    """
    if not (math.isfinite(beta) and beta > 0):
        raise ConfigurationError(f"beta={beta!r}: use a positive number")
    same_shape(logp=logp, ref_logp=ref_logp, advantages=advantages)
    mask = real_cells(logp, mask)
    target = torch.where(mask, advantages.detach(), 0.0).to(logp.dtype)
    h = torch.where(mask, logp - ref_logp.detach(), 0.0)
    drift = torch.where(mask, h - group_mean(h, mask)[:, None], 0.0)
    per_group = group_mean((beta * drift - target) ** 2, mask)

    counted = mask.any(-1).to(per_group.dtype)
    if weights is not None:
        same_shape(groups=per_group, weights=weights)
        counted = counted * check_weights(weights).to(per_group.dtype)
    value = weighted_mean(per_group, counted)

    rollouts = mask.sum().clamp_min(1)
    flat = (target == 0).all(-1) & mask.any(-1)
    return value, {
        "loss": value.item(),
        "advantage_std": ((target**2).sum() / rollouts).sqrt().item(),
        "tied": (flat.sum() / mask.any(-1).sum().clamp_min(1)).item(),
        "drift_std": ((drift.detach() ** 2).sum() / rollouts).sqrt().item(),
    }


def kl(logp_ref: Tensor, logp: Tensor) -> Tensor:
    """Return KL(π_ref‖π_θ) of whole distributions ``[G, 3]``, exactly, in nats, ``[G]``.

    Gradients flow into `logp` alone. Actions that the reference never takes (log-probability −inf,
    or so low that the probability is 0) contribute nothing, whatever the policy says of them.
    """
    same_shape(logp_ref=logp_ref, logp=logp)
    reference = logp_ref.detach()
    taken = reference.exp() > 0
    reference = torch.where(taken, reference, 0.0)
    # Where it is never taken both are 0, and so is their difference: no 0·inf, no NaN gradient.
    return (reference.exp() * (reference - torch.where(taken, logp, 0.0))).sum(-1)
