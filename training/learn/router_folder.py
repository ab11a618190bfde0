"""Writes a router's folder: what every fitted policy would give, and the chosen one."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.collect.questions import SEEN
from training.learn.dataset import Groups
from training.learn.doubly_robust import WholeEpisodes
from training.learn.fit_config import Config
from training.learn.lessons import Lessons
from training.learn.off_policy import one_turn, to_plain
from training.learn.origins import origins_of_traces
from training.learn.policy import Policy, export
from training.learn.report import (
    calibration_rows,
    describe_choices,
    gate_of,
    plot_calibration,
    plot_front,
    plot_rewards,
    plot_training,
    signs_of_trouble,
    write_manifest,
    write_report,
)
from training.learn.tensors import Data, decisions_of, log_probabilities


def export_router(
    config: Config,
    policies: dict[str, Policy],
    chosen: str,
    lessons: Lessons,
    *,
    worth: Groups,
    validation: Data,
    whole: Callable[[NDArray[Any]], WholeEpisodes],
    rewards: NDArray[Any],
    advantages: NDArray[Any],
    scale: float,
    rows: list[dict[str, Any]],
    summary: list[str],
) -> dict[str, Any]:
    """Estimates every policy on held-out questions, and writes the router's folder.

    Args:
        config: The fit's options.
        policies: Every fitted policy, by name.
        chosen: The one that becomes the router.
        lessons: What was learned from, and on what to estimate: its last part.
        worth: That part with the rewards that the chosen policy was fitted to.
        validation: It as tensors.
        whole: Estimates whole deliberations by a policy, given at the groups.
        rewards: Rewards of the training rollouts that are not tied, shape ``[n]``.
        advantages: SoftRankPO's advantages of the same.
        scale: s, which the rewards were divided by for them.
        rows: The epochs of all stages.
        summary: What was read and trained, a line each.

    Returns:
        The content of `router.json`.
    """
    origins = origins_of_traces(config.traces)
    held_out, measured, comparison = lessons.one_step[-1], lessons.measured, lessons.comparison
    held_rewards = validation.rewards.cpu().numpy()
    labels = np.eye(3)[worth.labels(config.weights())]
    probabilities = {
        "always PERSIST": np.tile([1.0, 0.0, 0.0], (len(held_out), 1)),
        "the traces' policy": held_out.behaviour.astype(float),
    }
    modes = {True: "drawn", False: "greedy"}
    for name, policy in policies.items():
        logs = log_probabilities(policy, validation)
        for drawn in (config.drawn, not config.drawn):
            decided = decisions_of(logs, drawn=drawn, temperature=config.temperature)
            probabilities[f"{name}, {modes[drawn]}"] = decided
    chosen = f"{(fitted_as := chosen)}, {modes[config.drawn]}"
    probabilities["oracle"] = labels
    estimates = {name: one_turn(held_out, p, held_rewards) for name, p in probabilities.items()}
    turn = estimates[chosen]
    whole_estimate = whole(probabilities[chosen])
    shares = {"all": labels.mean(0)}
    for name, subset in (
        ("not tied", ~validation.tied.cpu().numpy()),
        ("in disagreement", held_out.disagreement),
    ):
        shares[f"{name} ({subset.mean():.0%} of all)"] = (
            labels[subset].mean(0) if subset.any() else np.full(3, np.nan)
        )
    free = held_out.action_mask[:, 1]
    spread = float(advantages.std()) if len(advantages) else 0.0
    contested = held_out.disagreement
    warnings = signs_of_trouble(
        turn,
        labels[contested].mean(0) if contested.any() else shares["all"],
        float(held_out.rollout_mask[free].sum(1).mean()) if free.any() else 5.0,
        spread,
        estimates["oracle"].reward.mean - estimates["always PERSIST"].reward.mean,
        origins.mixtures(),
    )
    ranks = (
        f"SoftRankPO's advantages on the training turns that are not tied: tau {config.tau:g}, "
        f"reward scale s {scale:.4f}, standard deviation {spread:.4f}."
    )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)

    out = config.out
    export(policies[fitted_as], out / "policy.onnx")
    plot_training(out / "training.png", rows, list(dict.fromkeys(row["stage"] for row in rows)))
    plot_rewards(out / "rewards.png", rewards, advantages)
    mended = measured.apply_calibration(lessons.calibration)
    plot_calibration(out / "calibration.png", measured.confidence, measured.right, mended)
    plot_front(out / "front.png", {n: (e.tokens, e.own.mean) for n, e in estimates.items()}, chosen)
    gate = gate_of(turn, whole_estimate)
    advice = comparison.advise(origins)
    if gate[0] == "pass":
        advice = (
            f"Run: this router (accuracy {whole_estimate.against_choice} against the "
            f"{comparison.chosen}, estimated)."
        )
    (out / "consensus.json").write_text(comparison.consensus.model_dump_json(indent=1) + "\n")
    told = {one for part in lessons.one_step for one in part.told}
    (out / SEEN).write_text("".join(f"{one}\n" for one in sorted(told)))
    content = write_manifest(
        out,
        consensus="learned" if lessons.learned else None,
        advice=advice,
        name=out.resolve().name,
        temperature=config.temperature,
        competence=lessons.competence,
        calibration=lessons.calibration,
        gate=gate[0],
        mode=modes[config.drawn],
        evidence={
            "why": gate[1],
            "one_turn": to_plain(turn),
            "whole_episodes": to_plain(whole_estimate),
        },
        training={
            **asdict(config),
            "critic": list(origins.critics),
            "scale": scale,
            "advantage_std": spread,
            "summary": summary,
        },
    )
    write_report(
        out,
        title=out.resolve().name,
        summary=[*summary, ranks],
        estimates=estimates,
        chosen=chosen,
        whole=whole_estimate,
        gate=gate,
        choices=describe_choices(comparison, learned=lessons.learned, rules=origins.rules),
        advice=advice,
        labels=shares,
        calibration=[
            row
            for name, part in measured.parts().items()
            for row in calibration_rows(
                part.confidence, part.right, part.apply_calibration(lessons.calibration), name
            )
        ],
        warnings=warnings,
        plots=["training.png", "rewards.png", "calibration.png", "front.png"],
    )
    print(f"{out}: gate {gate[0]} ({gate[1]}). Against the vote, one turn: {turn.against_vote}")
    return content
