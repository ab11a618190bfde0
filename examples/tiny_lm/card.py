"""The model card's tables and plot of what was measured."""

import json
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from examples.tiny_lm.figures import Case, pairs_of, recalibrate_halves, sources
from examples.tiny_lm.prompts import REFINE_TEMPERATURE
from examples.tiny_lm.scores import Rate
from training.learn.measures import reliability

START, STOP = "<!-- figures: written by measure.py -->\n", "<!-- end of figures -->"

ROWS = {
    "single": "one agent",
    "single_owners_0": "… nothing missing",
    "single_owners_1": "… missing facts with one agent",
    "single_owners_2": "… with two agents",
    "single_owners_3": "… with three agents",
    "informed": "one agent with all facts",
    "guess_marked": "every guess marked where facts are missing",
    "own_fact_stated": "own facts stated rightly and unmarked",
    "vote_3": "vote of 3 (one per agent)",
    "vote_9": "vote of 9 (three per agent)",
    "weighted_vote_3": "confidence-weighted vote of 3",
    "weighted_vote_9": "confidence-weighted vote of 9",
    "refined_single": "one agent after REFINE",
    "refined_vote_3": "vote of 3 after everyone's REFINE",
    "right_to_wrong": "REFINE right -> wrong",
    "right_to_wrong_peers_agree": "… both peers right too",
    "wrong_to_right": "REFINE wrong -> right",
    "wrong_to_right_facts_at_hand": "… missing facts stand in the responses",
    "wrong_to_right_two_owners": "… and lie with two owners",
    "fresh_wrong_to_right": "fresh proposal instead: wrong -> right",
    "refine_minus_fresh_single": "REFINE minus fresh proposal, one agent",
    "refine_minus_fresh_vote_3": "REFINE minus fresh proposal, vote of 3",
    "proposal_tokens": "tokens of a proposal",
    "check_tokens": "tokens of its check in writing",
    "check_without_verdict": "checks of refined answers without a verdict",
}
SOURCES = {
    "sequence": "sequence probability, per token",
    "sequence_raw": "sequence probability",
    "sequence_backed": "sequence probability, with that of the surest proposal of the same answer",
    "sequence_first": "sequence probability under its first prompt, without its peers",
    "verdict": "P(yes) of the critique, at once",
    "check": "P(yes) of the critique, after a check in writing",
    "check_sure": "… drawn to 1/2 as far as the check was unsure",
}
CONFIDENCE = (
    "Confidence (AUROC overall / among the responses to one question / ECE raw / ECE mended by a "
    "calibration fitted on the other half of the questions):"
)


def tables(report: dict[str, Any]) -> str:
    """The figures as Markdown."""

    def cell(values: dict[str, Rate], name: str) -> str:
        if name not in values or np.isnan(values[name]["value"]):
            return "–"
        value, error = values[name]["value"], values[name]["error"]
        digits = 1 if name.endswith("_tokens") else 3
        shown = f"{value:.{digits}f}"
        return shown if np.isnan(error) else f"{shown} ± {error:.{digits}f}"

    kinds = ("hidden", "plain")
    caption = (
        f"{report['count']} {report['split']} questions of each kind (seed {report['seed']}), "
        f"proposals at temperature {report['temperature']}, refinements at {REFINE_TEMPERATURE}. "
        "Means ± standard errors over questions:"
    )
    lines = [caption, "", "| | hidden profile | plain |", "| --- | --- | --- |"]
    lines += [
        f"| {words} | {' | '.join(cell(report[kind], name) for kind in kinds)} |"
        for name, words in ROWS.items()
    ]
    lines += [
        "",
        CONFIDENCE,
        "",
        *lines[2:4],
    ]
    for stage in ("proposal", "refined"):
        for source in sources(stage):
            cells = [
                " / ".join(
                    cell(report[kind], f"{stage}_{source}_{what}")
                    for what in ("auroc", "auroc_within", "ece", "ece_mended")
                )
                for kind in kinds
            ]
            lines.append(f"| {stage}: {SOURCES[source]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot_calibration(path: Path, measured: dict[str, list[Case]]) -> None:
    """Draws reliability curves of every confidence, raw and after correction."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(SOURCES), figsize=(17, 7), sharex=True, sharey=True)
    for row, stage in zip(axes, ("proposal", "refined"), strict=True):
        for axis, source in zip(row, SOURCES, strict=True):
            if source not in sources(stage):
                axis.set_axis_off()
                continue
            axis.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
            for kind, color in (("hidden", "#cc3311"), ("plain", "#4477aa")):
                groups = pairs_of(measured[kind], stage, source)
                raw = [pair for group in groups for pair in group]
                for pairs, style, label in (
                    (raw, "o--", "raw"),
                    (recalibrate_halves(groups), "o-", "calibrated"),
                ):
                    scores, right = np.array(pairs, dtype=float).T
                    curve = reliability(scores, right)
                    x, y = [c[0] for c in curve], [c[1] for c in curve]
                    axis.plot(x, y, style, color=color, ms=3, label=f"{kind}, {label}")
            axis.set_title(fill(f"{stage}: {SOURCES[source]}", 34), fontsize=8)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("confidence")
    figure.supylabel("share right")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def write_card(folder: Path, report: dict[str, Any], measured: dict[str, list[Case]]) -> None:
    """Writes `calibration.png` and `figures.json`, and the tables into a card that is there."""
    plot_calibration(folder / "calibration.png", measured)
    (folder / "figures.json").write_text(json.dumps(report, indent=1) + "\n")
    card = folder / "README.md"
    if card.exists() and START in (old := card.read_text()):
        before, rest = old.split(START)
        text = before + START + "\n" + tables(report) + "\n" + STOP + rest.split(STOP)[1]
        card.write_text(text)
