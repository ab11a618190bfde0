"""Writes a router's folder: what every fitted policy would give, and the chosen one."""

import sys
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from training.calibration import Calibration
from training.dataset import Groups
from training.estimate import action_means, one_turn, plain, whole_episodes
from training.options import Config
from training.policy import Policy, export
from training.report import (
    calibration_rows,
    confidences,
    gate_of,
    plot_calibration,
    plot_front,
    plot_rewards,
    plot_training,
    signs_of_trouble,
    write_json,
    write_report,
)
from training.tensors import Data, log_probabilities


def export_router(
    config: Config,
    policies: dict[str, Policy],
    chosen: str,
    held_out: Groups,
    validation: Data,
    data: Data,
    advantages: Tensor,
    competence: dict[str, float],
    calibration: Calibration,
    rows: list[dict[str, Any]],
    summary: list[str],
) -> dict[str, Any]:
    """Estimates every policy on held-out questions, and writes the router's folder."""
    rewards = validation.rewards.cpu().numpy()
    probabilities = {
        name: log_probabilities(p, validation).exp().double().cpu().numpy()
        for name, p in policies.items()
    }
    estimates = {name: one_turn(held_out, p, rewards) for name, p in probabilities.items()}
    turn = estimates[chosen]
    whole = whole_episodes(held_out, probabilities[chosen])
    labels = np.eye(3)[held_out.labels(config.weights())]
    best = np.nanmax(action_means(held_out, rewards), 1) - action_means(held_out, rewards)[:, 0]
    shares = {"all": labels.mean(0)}
    for name, subset in (
        ("not tied", ~validation.tied.cpu().numpy()),
        ("in disagreement", held_out.disagreement),
    ):
        shares[f"{name} ({subset.mean():.0%} of all)"] = (
            labels[subset].mean(0) if subset.any() else np.full(3, np.nan)
        )
    free = held_out.action_mask[:, 1]
    untied = data.mask & ~data.tied[:, None]
    spread = advantages[untied].cpu().numpy()
    contested = held_out.disagreement
    warnings = signs_of_trouble(
        rows,
        turn,
        labels[contested].mean(0) if contested.any() else shares["all"],
        float(held_out.rollout_mask[free].sum(1).mean()) if free.any() else 5.0,
        float(spread.std()) if len(spread) else 0.0,
        float(best.mean()),
    )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)

    out = config.out
    export(policies[chosen], out / "policy.onnx")
    confidence, right = confidences(held_out.own, held_out.held_right)
    plot_training(out / "training.png", rows, list(dict.fromkeys(row["stage"] for row in rows)))
    plot_rewards(out / "rewards.png", data.rewards[untied].cpu().numpy(), spread)
    plot_calibration(out / "calibration.png", confidence, right, calibration.apply(confidence))
    plot_front(out / "front.png", {n: (e.tokens, e.own.mean) for n, e in estimates.items()}, chosen)
    gate = gate_of(turn, whole)
    content = write_json(
        out,
        name=out.name,
        temperature=config.temperature,
        competence=competence,
        calibration=calibration,
        gate=gate[0],
        evidence={"why": gate[1], "one_turn": plain(turn), "whole_episodes": plain(whole)},
        training={**asdict(config), "summary": summary},
    )
    write_report(
        out,
        title=out.name,
        summary=summary,
        estimates=estimates,
        chosen=chosen,
        whole=whole,
        gate=gate,
        labels=shares,
        calibration=calibration_rows(confidence, right, calibration),
        warnings=warnings,
        plots=["training.png", "rewards.png", "calibration.png", "front.png"],
    )
    print(f"{out}: gate {gate[0]} ({gate[1]}); against the vote, one turn: {turn.against_vote}")
    return content
