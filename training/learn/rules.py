"""Measures the rules that need no network, from traces: seconds instead of minutes.

    python training/fit_rules.py --traces traces/ --out rules/mine

It reads the traces that `fit_router.py` reads, and writes three files:

    expected_gain.json   when an agent should refine: `load_expected_gain` makes a router of it
    recruiting.json      whom to ask, and when to stop asking: `load_recruiting` reads it
    report.md            what was measured, as tables that a person can check

The first needs traces that show what REFINE leads to: collect them with `alternatives`, or import
debates. The second needs traces in which everybody was asked. What cannot be measured is left out,
and the report says so. `python -m training.studies.asking` judges the second on held-out questions.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel

from mpdf_langgraph import TraceReader
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import make_rule
from mpdf_langgraph.errors import ConfigurationError, MPDFError
from mpdf_langgraph.recruiting import AskingValues
from mpdf_langgraph.runtime.budget import prices_of
from training.collect.team import answer_schema, grader
from training.learn.asking import describe_asking, fit_asking, gather
from training.learn.calibrate import fit_calibration, read_judged
from training.learn.dataset import check_answer, load
from training.learn.fit_config import read_labels
from training.learn.gains import describe_gains, fit_gains
from training.learn.rewards import REFINE, Grader

UNTOLD = (
    "Nobody refined in these traces, so nothing tells what REFINE leads to. Collect with "
    "alternatives, or import recorded debates (rows of round 1 and more)."
)
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
    cost: float = 0.1
    """Price of 1,000 tokens, in accuracy."""
    agents: tuple[str, ...] = ()
    """Whom to ask: only these agents of the traces. Default: the whole team."""
    prices: dict[str, float] = field(default_factory=dict)
    """Price of a token, by agent. Default: as the traces say, else 1."""
    wave: int = 1
    """Agents asked at a time."""


def fit_rules(options: RuleOptions) -> str:
    """Write the files, and return the report.

    Raises:
        MPDFError: Traces cannot be read, or neither rule can be measured.
    """
    if options.cost < 0:
        raise ConfigurationError(f"--cost must be 0 or more, got {options.cost}")
    check_answer(options.traces, options.answer)
    labels = read_labels(options.labels) if options.labels else None
    graded = grader(answer_schema(options.answer))
    judged = read_judged(options.traces, graded, labels)
    calibration = fit_calibration(judged)
    groups, report = load(options.traces, grader=graded, labels=labels, calibration=calibration)
    files: dict[str, BaseModel] = {}
    parts = [f"# {options.out.resolve().name}", str(report), "## When to refine"]
    refined = groups.rollout_mask & (groups.actions == REFINE)
    if refined.any():
        gains = fit_gains(groups, calibration, options.cost)
        files["expected_gain.json"] = gains
        price = (
            f"A REFINE takes {gains.tokens['']:.0f} tokens, and 1,000 tokens are worth "
            f"{options.cost:g} of accuracy."
        )
        parts += [EXPLANATION, describe_gains(gains), price]
    else:
        parts.append(UNTOLD)
    parts.append("## Whom to ask")
    try:
        values = measure_asking(options, graded, labels, calibration)
    except ConfigurationError as error:
        parts.append(f"Nothing tells it: {error}.")
    else:
        files["recruiting.json"] = values
        parts.append(describe_asking(values))
    if not files:
        raise ConfigurationError("neither rule can be measured:\n" + "\n".join(parts[2:]))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (options.out / name).write_text(content.model_dump_json(indent=1) + "\n")
    text = "\n\n".join(parts) + "\n"
    (options.out / "report.md").write_text(text)
    print(text)
    return text


def measure_asking(
    options: RuleOptions,
    graded: Grader,
    labels: Mapping[str, str] | None,
    calibration: Calibration,
) -> AskingValues:
    """Compute the values of asking on.

    Raises:
        ConfigurationError: No episode shows what everybody says.
    """
    episodes, prices = [], dict(options.prices)
    name = "majority"
    for path in options.traces:
        for recorded in TraceReader(path):
            known = (labels or {}).get(recorded.id, recorded.reference)
            name = str(recorded.options.get("consensus"))
            for agent, price in prices_of(recorded.agents).items():
                prices.setdefault(agent, price)
            responses = {i: calibration.apply(one) for i, one in recorded.responses.items()}
            changed = {"reference": known, "responses": responses}
            episodes.append(recorded.model_copy(update=changed))
    asked = gather(episodes, graded, make_rule(name)[1], options.agents)
    return fit_asking(asked, prices=prices, cost=options.cost, wave=options.wave, consensus=name)


def command() -> None:
    """Run the command."""
    try:
        fit_rules(tyro.cli(RuleOptions, description=__doc__))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
