"""The router's folder: `policy.onnx`, `router.json`, and a report that people would rather read."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.observation import FEATURE_VERSION, INDEX
from mpdf_langgraph.state import ACTIONS
from training.collect.files import write_json
from training.learn.choices import LEARNED, SINGLE, Comparison
from training.learn.display import COLORS, percent, start_figure, table
from training.learn.doubly_robust import WholeEpisodes
from training.learn.gate_line import describe_gate
from training.learn.measures import quality, reliability, share_interval
from training.learn.off_policy import LEAST_QUESTIONS, OneTurn

FORMAT = 2
RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Risks that the report shows bars for."""
EXPLANATION = (
    "Estimated from stored responses with the peers held at what they did. Differences have 95 % "
    "intervals over questions. *Group*: the consensus after the turn is right. *Own*: the agent's "
    "answer is. The oracle knows the answers: no router has a higher reward."
)


def gate_of(turn: OneTurn, whole: WholeEpisodes) -> tuple[str, str]:
    """Return the gate, and why: `pass`, `fail` or `unknown`.

    Whole deliberations decide, where they can be estimated: against the vote, the traces' policy
    and the rule over the proposals that is advised. One turn alone can fail a router and never pass
    it. Real runs (`evaluate.py`) compare it with more baselines, and rewrite the gate.
    """
    differences = [turn.against_vote, turn.against_behaviour]
    if min(d.questions for d in differences) < LEAST_QUESTIONS:
        return "unknown", f"fewer than {LEAST_QUESTIONS} held-out questions with a decision"
    if whole.against_vote is None or whole.against_behaviour is None:
        if any(d.high < 0 for d in differences):
            return "fail", "one turn of it is worse than a vote or than the policy in the traces"
        return "unknown", (
            f"whole deliberations cannot be estimated ({whole.unknown}). Run training/evaluate.py"
        )
    differences = [whole.against_vote, whole.against_behaviour]
    if whole.against_choice is not None:
        differences.append(whole.against_choice)
    if any(d.high < 0 for d in differences):
        return "fail", "whole deliberations are estimated to get worse"
    if all(d.low > 0 for d in differences):
        return "pass", "whole deliberations are estimated to gain, lower bounds above zero"
    return "unknown", "the intervals of whole deliberations hold zero. Run training/evaluate.py"


def signs_of_trouble(
    turn: OneTurn,
    disagreeing_label_shares: Sequence[float],
    rollouts: float,
    spread: float,
    gain: float,
    mixtures: Sequence[str] = (),
) -> list[str]:
    """Return warnings with what to do, from the signs that the method's authors name.

    Args:
        turn: The estimate on held-out turns.
        disagreeing_label_shares: Of the oracle's labels, over turns whose team disagrees.
        rollouts: Mean number of rollouts of the groups that allow REFINE.
        spread: Standard deviation of the advantages where not all are tied. 0 if all are.
        gain: Expected reward of a held-out turn under the oracle, minus that of PERSIST.
        mixtures: What differs among the traces (`Origins.mixtures`).
    """
    warnings = []
    if turn.reward.questions < LEAST_QUESTIONS:
        warnings.append(
            f"{turn.reward.questions} held-out questions have a decision, fewer than "
            f"{LEAST_QUESTIONS}: the figures below say little. Collect more questions."
        )
    warnings += mixtures
    persist, refine, _ = turn.actions
    if refine > 0.8 and turn.own.low <= 0:
        warnings.append(
            f"REFINE takes {refine:.0%} of the turns without a gain in accuracy: redundant edits "
            "go unpunished. Give tokens a cost (--cost 0.1)."
        )
    disagreeing = turn.actions_disagreeing[0]
    if disagreeing > disagreeing_label_shares[0] + 0.3:
        warnings.append(
            f"PERSIST takes {disagreeing:.0%} of the turns in disagreement, where the oracle "
            f"persists in {disagreeing_label_shares[0]:.0%}: collapse. Lower --tied-weight or "
            "--beta, or raise --disagreement-weight."
        )
    if persist < 0.02:
        warnings.append("PERSIST is hardly ever taken. Raise --tied-weight or give tokens a cost.")
    if round(rollouts, 1) < 5:
        warnings.append(
            f"groups that allow REFINE hold {rollouts:.1f} rollouts on average, below 5: ranks "
            "are coarse. Collect with --alternatives 4."
        )
    if 0 < spread < 0.1:
        warnings.append(
            f"the advantages' standard deviation is {spread:.3f} even where rewards differ: ranks "
            "this smooth hardly move the policy. Lower --tau."
        )
    if gain < 0.01:
        warnings.append(
            f"even the best action of every turn gains only {gain:.3f} over persisting: there is "
            "little to decide here. Agents that hold different information, models or tools "
            "disagree more usefully."
        )
    return warnings


def write_manifest(
    folder: Path,
    *,
    name: str,
    temperature: float,
    competence: Mapping[str, float],
    calibration: Calibration,
    gate: str,
    mode: str,
    evidence: Mapping[str, Any],
    training: Mapping[str, Any],
    consensus: str | None = None,
    advice: str = "",
) -> dict[str, Any]:
    """Write `router.json` beside the files that it describes, and return it."""
    files = [folder / name for name in ("policy.onnx", "consensus.json")]
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.exists()}
    content = {
        "format": FORMAT,
        "feature_version": FEATURE_VERSION,
        "name": name,
        "version": digests["policy.onnx"][:12],
        "temperature": temperature,
        "floor": 0.0,
        "competence": dict(competence),
        "calibration": calibration.model_dump(),
        "gate": gate,
        "mode": mode,
        "consensus": consensus,
        "advice": advice,
        "evidence": dict(evidence),
        "training": dict(training),
        "sha256": digests,
    }
    write_json(folder / "router.json", content)
    return content


# --- plots -------------------------------------------------------------------------------------


def plot_training(path: Path, rows: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> None:
    """Draw losses, held-out scores and the action mix by epoch, the stages one after another."""
    (loss, score, mix), done = start_figure(path, 3)
    start = 0
    for number, stage in enumerate(stages):
        chosen = [row for row in rows if row["stage"] == stage]
        x = [start + row["epoch"] for row in chosen]
        loss.plot(x, [row["loss"] for row in chosen], label=stage)
        score.plot(x, [row["validation"] for row in chosen], label=stage)
        for action in ACTIONS:
            label = action if number == 0 else None
            mix.plot(x, [row[action.lower()] for row in chosen], color=COLORS[action], label=label)
        start = x[-1] if x else start
        if number < len(stages) - 1:
            mix.axvline(start + 0.5, color="black", lw=0.8, ls=":")
    loss.set(xlabel="epoch", ylabel="training loss")
    score.set(xlabel="epoch", ylabel="choosing: -cross-entropy (SFT), worth")
    mix.set(xlabel="epoch", ylabel="share of held-out turns", ylim=(0, 1))
    for axis in (loss, score, mix):
        if axis.lines:
            axis.legend(fontsize=7)
    done()


def plot_rewards(path: Path, rewards: NDArray[Any], advantages: NDArray[Any]) -> None:
    """Draw the histograms of rewards and advantages over all rollouts that are not tied."""
    (left, right), done = start_figure(path, 2)
    left.hist(rewards, bins=41, color="#4477aa")
    left.set(xlabel="reward of a rollout", ylabel="count")
    if len(rewards):
        left.set_yscale("log")
    right.hist(advantages, bins=41, color="#ee6677")
    right.set(xlabel=f"advantage (sd {np.std(advantages):.3f})" if len(advantages) else "advantage")
    done()


def plot_calibration(
    path: Path, confidence: NDArray[Any], right: NDArray[Any], calibrated: NDArray[Any]
) -> None:
    """Draw the reliability curves of the critic's confidence before and after correction."""
    (axis,), done = start_figure(path, 1, width=4.6)
    axis.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
    for values, label in ((confidence, "raw"), (calibrated, "calibrated")):
        if len(values):
            curve = reliability(values, right)
            axis.plot([c for c, _, _ in curve], [r for _, r, _ in curve], "o-", label=label)
    axis.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    if len(confidence):
        axis.legend()
    done()


def plot_front(path: Path, points: Mapping[str, tuple[float, float]], chosen: str) -> None:
    """Draw expected accuracy against tokens of a turn, the chosen point marked."""
    (axis,), done = start_figure(path, 1, width=5.2)
    for name, (tokens, gain) in points.items():
        axis.plot(tokens, gain, "*" if name == chosen else "o", ms=13 if name == chosen else 6)
        axis.annotate(name, (tokens, gain), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axis.set(xlabel="expected tokens of a turn", ylabel="gain in the agent's accuracy over PERSIST")
    done()


# --- report ------------------------------------------------------------------------------------


def calibration_rows(
    confidence: NDArray[Any], right: NDArray[Any], calibrated: NDArray[Any], of: str = ""
) -> list[list[Any]]:
    """Return the critic's quality before and after calibration, one row each, `of` what."""
    rows = []
    for name, values in (("raw", confidence), ("calibrated", calibrated)):
        q = quality(values, right)
        found = [q[key] for key in ("brier", "log_loss", "ece", "auroc")]
        figures = ["–" if math.isnan(value) else f"{value:.3f}" for value in found]
        rows.append([f"{of}: {name}" if of else name, *figures, int(q["count"])])
    return rows


def confidences(own: NDArray[Any], held_right: NDArray[Any]) -> tuple[Any, Any]:
    """Return the critic's confidences of the responses held, where known, and who was right."""
    known = (own[:, INDEX["confidence_known"]] > 0) & (own[:, INDEX["answer_valid"]] > 0)
    return (
        own[known, INDEX["confidence"]].astype(float),
        held_right[known].astype(float),
    )


def describe_choices(
    comparison: Comparison, *, learned: bool, rules: Sequence[str] = ()
) -> list[str]:
    """Return the comparison of the rules over the proposals, as lines.

    `rules` are the names of the consensus rules of the traces.
    """
    rows = []
    for name, choice in comparison.held_out.items():
        shown = f"{name} ({comparison.best})" if name == SINGLE else name
        error = choice.calibration_error
        rows.append([
            f"**{shown}**" if name == comparison.chosen else shown,
            share_interval(choice.right, comparison.question).short("", 3),
            "" if name == LEARNED else comparison.difference(LEARNED, name).short(digits=3),
            "" if np.isnan(choice.calls).any() else f"{choice.calls.mean():.1f}",
            "" if np.isnan(error) else f"{error:.3f}",
        ])  # fmt: skip
    risk = [
        f"- risk {risk:g}: "
        + ("no answer can be accepted." if (bar := comparison.consensus.risk.bar(risk)) is None
           else f"accept from P = {bar:.3f}. {_accepted(comparison, risk)}.")
        for risk in RISKS
    ]  # fmt: skip
    return [
        "## Choosing among the proposals, held-out questions",
        "",
        "Everything is learned on the training questions. They also choose the rule to run, by",
        "cross-fitting: one agent is asked alone, unless the team is surely better.",
        "",
        table(["rule", "accuracy", f"{LEARNED} − it", "calls", "calibration error"], rows),
        "",
        "The router decides by the "
        + (LEARNED if learned else "traces' own rule")
        + f". On what the teams held in the end the {LEARNED} gains "
        f"{comparison.final_gain.short(digits=3)} over the traces' rule ({', '.join(rules)}), on "
        "the training questions.",
        "",
        "Risk control, by the learned consensus's probabilities after the traces' own policy.",
        "Another policy leads to other answers. All held-out questions choose the bar. What is",
        "accepted is counted on each half of them, with the bar that the other half chose.",
        "",
        *risk,
        "",
    ]


def _accepted(comparison: Comparison, risk: float) -> str:
    """Return how many answers are accepted on questions that chose no bar, and how many wrong."""
    accepted, wrong = comparison.try_risk(risk)
    return f"Of {len(comparison.ends.right)}, {accepted} are accepted, {wrong} of these wrong"


def write_report(
    folder: Path,
    *,
    title: str,
    summary: Sequence[str],
    estimates: Mapping[str, OneTurn],
    chosen: str,
    whole: WholeEpisodes,
    gate: tuple[str, str],
    labels: Mapping[str, Sequence[float]],
    calibration: Sequence[Sequence[Any]],
    warnings: Sequence[str],
    plots: Sequence[str],
    choices: Sequence[str],
    advice: str,
) -> None:
    """Write `report.md`.

    Args:
        folder: The router's folder.
        title: The router's name.
        summary: What was read and trained, a line each.
        estimates: One-turn estimates on held-out questions, by policy.
        chosen: The policy that was exported.
        whole: The whole-episode estimate of the chosen one.
        gate: The gate and why.
        labels: Shares of PERSIST, REFINE and CONCEDE among the oracle's labels, by subset.
        calibration: Rows of the critic's quality.
        warnings: Signs of trouble.
        plots: File names of the plots.
        choices: The comparison of the rules over the proposals, as lines.
        advice: What to run.
    """
    lines = [
        f"# Router `{title}`. {advice}",
        "",
        describe_gate(*gate),
        "",
        *[f"- {line}" for line in summary],
        "",
        "## Signs of trouble",
        "",
        *([f"- {warning}" for warning in warnings] or ["None was seen."]),
        "",
        *choices,
        "## One turn, held-out questions",
        "",
        EXPLANATION,
        "",
        table(
            ["policy", "group − persisting", "group − traces' policy", "own − persisting",
             "reward", "tokens", *ACTIONS, "PERSIST where the team disagrees"],
            [
                [f"**{name}**" if name == chosen else name, e.against_vote, e.against_behaviour,
                 e.own, f"{e.reward.mean:.4f}", f"{e.tokens:.0f}", *percent(e.actions),
                 *percent(e.actions_disagreeing[:1])]
                for name, e in estimates.items()
            ],
        ),
        "",
        "## Whole deliberations, held-out questions",
        "",
        f"Effective sample size {whole.effective_sample:.0f}: "
        + (
            f"accuracy {whole.against_vote} against the vote of the proposals, "
            f"{whole.against_behaviour} against the policy in the traces, at {whole.tokens} tokens "
            "against that policy (doubly robust)."
            + (f" Against the advised rule: {c}." if (c := whole.against_choice) else "")
            if whole.against_vote
            else f"accuracy unknown ({whole.unknown})."
        ),
        "",
        "## What the oracle would do",
        "",
        table(
            ["turns", *ACTIONS],
            [[name, *percent(shares)] for name, shares in labels.items()],
        ),
        "",
        "## The confidence of responses, held-out questions",
        "",
        table(["", "Brier", "log-loss", "ECE", "AUROC", "n"], calibration),
        "",
        "## Plots",
        "",
        *[f"![{name}]({name})\n" for name in plots],
    ]  # fmt: skip
    (folder / "report.md").write_text("\n".join(lines).rstrip() + "\n")
