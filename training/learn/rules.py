"""Measures the rules that need no network, from traces: seconds instead of minutes.

    python training/fit_rules.py --traces traces/ --out rules/mine

It reads the traces that `fit_router.py` reads, and writes two files:

    expected_gain.json   when an agent should refine: `load_expected_gain` makes a router of it
    report.md            what was measured, as tables that a person can check

The traces must show what REFINE leads to: collect them with `alternatives`, or import debates.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mpdf_langgraph.errors import ConfigurationError, MPDFError
from training.collect.team import answer_schema, grader
from training.learn.calibrate import fit_calibration, read_judged
from training.learn.dataset import check_answer, load
from training.learn.fit_config import read_labels
from training.learn.gains import describe_gains, fit_gains
from training.learn.rewards import REFINE

EXPLANATION = (
    "*p*: the answer held is right. *h*: REFINE makes a wrong answer right. *d*: REFINE makes a "
    "right answer wrong. These are plain shares. The rule uses curves of the standing, the "
    "confidences and the agent, which draw rare cases to common ones."
)


@dataclass
class RuleOptions:
    """Options of the measurement."""

    traces: tuple[Path, ...]
    """Folders of traces (or single segments) to learn from."""
    out: Path = Path("rules")
    """Folder for the files."""
    labels: Path | None = None
    """JSONL of `episode` (its id) and `reference`, for traces whose truth came late."""
    answer: Literal["math", "choice", "text", "code"] = "math"
    """How answers are compared with references."""
    cost: float = 0.0
    """Price of 1,000 tokens, in accuracy."""


def fit_rules(options: RuleOptions) -> str:
    """Write the files, and return the report.

    Raises:
        MPDFError: Traces cannot be read, or show nothing of REFINE.
    """
    if options.cost < 0:
        raise ConfigurationError(f"--cost must be 0 or more, got {options.cost}")
    check_answer(options.traces, options.answer)
    labels = read_labels(options.labels) if options.labels else None
    graded = grader(answer_schema(options.answer))
    judged = read_judged(options.traces, graded, labels)
    calibration = fit_calibration(judged)
    groups, report = load(options.traces, grader=graded, labels=labels, calibration=calibration)
    refined = groups.rollout_mask & (groups.actions == REFINE)
    if not refined.any():
        raise ConfigurationError(
            "nobody refined in these traces, so nothing tells what REFINE leads to. Collect with "
            "alternatives, or import recorded debates (rows of round 1 and more)"
        )
    gains = fit_gains(groups, calibration, options.cost)
    price = (
        f"A REFINE takes {gains.tokens['']:.0f} tokens, and 1,000 tokens are worth "
        f"{options.cost:g} of accuracy."
    )
    parts = [f"# {options.out.resolve().name}", str(report), "## When to refine", EXPLANATION]
    text = "\n\n".join([*parts, describe_gains(gains), price]) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "expected_gain.json").write_text(gains.model_dump_json(indent=1) + "\n")
    (options.out / "report.md").write_text(text)
    print(text)
    return text


def command() -> None:
    """Run the command."""
    try:
        fit_rules(tyro.cli(RuleOptions, description=__doc__))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
