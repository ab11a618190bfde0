"""Measures the rules that need no network, from traces: seconds instead of minutes.

    python training/fit_rules.py --traces traces/ --out rules/mine

It reads the traces that `fit_router.py` reads, and writes these files:

    profile_critic.json  P(correct) from how a response looks, where that tells right from wrong
                         better than the recorded confidence: `load_profile_critic` reads it
    expected_gain.json   when an agent should refine: `load_expected_gain` makes a router of it
    recruiting.json      whom to ask, and when to stop asking: `load_recruiting` reads it
    report.md            what was measured, as tables that a person can check

The second needs traces that show what REFINE leads to: collect them with `alternatives`, or import
debates. The third needs traces in which everybody was asked. What cannot be measured is left out,
and the report says so. `python -m training.studies.asking` judges the third on held-out questions,
`python -m training.studies.debates` the others.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from mpdf_langgraph import TraceReader
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.options import check_number
from mpdf_langgraph.profile_critic import ProfileCritic
from mpdf_langgraph.recruiting import AskingValues
from mpdf_langgraph.runtime.budget import prices_of
from mpdf_langgraph.traces.records import Episode
from training.collect.files import check_folder
from training.collect.importing import LOGGED
from training.collect.team import Answer, remembering_grader
from training.command import run_command
from training.learn.asking import describe_asking, fit_asking, gather
from training.learn.calibrate import fit_calibration, judge
from training.learn.dataset import check_answer, make_groups
from training.learn.fit_config import read_labels
from training.learn.gains import describe_gains, fit_gains
from training.learn.measures import auroc
from training.learn.origins import origins_of
from training.learn.profile_fit import criticise, fit_profile, gather_looks
from training.learn.recalibrate import recalibrate
from training.learn.rewards import REFINE, Grader, rule_of
from training.learn.trace_rows import CONTRADICTIONS, describe_records

PROFILED = (
    "A critic that reads how a response looks was fitted (`load_profile_critic`). Its AUROC on "
    "held-out questions is {auroc:.3f}. This figure chose it, too. {instead} The rates below are "
    "those of a team with this critic."
)
LEAST_GAIN = 0.02
"""How much higher the AUROC of the profile critic has to be than that of recorded confidences."""
KEPT = (
    "The recorded confidence has an AUROC of {known}. That of a critic that reads how a response "
    "looks is {auroc} on held-out questions, so it is not used."
)
ALL_ALIKE = (
    "All answers in these traces are right, or all are wrong. Nothing can tell which confidence is "
    "better, so the recorded one is kept."
)
UNTOLD = (
    "Nobody refined in these traces, so nothing tells what REFINE leads to. Collect with "
    "alternatives, or import recorded debates (rows of round 1 and more)."
)
EXPLANATION = (
    "*p*: the answer held is right, where REFINE was tried. *h*: REFINE makes a wrong answer "
    "right. *d*: REFINE makes a right answer wrong. These are plain shares. The rule uses curves "
    "of the standing, the confidences and the agent, which draw rare cases to common ones."
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
    answer: Answer = "math"
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
    check_number("--cost", options.cost, 0)
    check_number("--wave", options.wave, 1, whole=True)
    for name, weight in options.prices.items():
        check_number(f"--prices {name}", weight, 0)
    if len(set(options.agents)) < len(options.agents):
        raise ConfigurationError("--agents names somebody twice")
    check_folder("--out", options.out)
    check_answer(options.traces, options.answer)
    labels = read_labels(options.labels) if options.labels else {}
    graded = remembering_grader(options.answer)
    recorded, dropped = read_graded(options.traces, labels)
    files: dict[str, BaseModel] = {}
    read = f"{len(recorded)} episodes. {dropped}."
    if unused := len(labels.keys() - {episode.id for episode in recorded}):
        read += f" {unused} labels are of none of these episodes."
    known = sorted({name for episode in recorded for name in episode.team})
    check_names("--agents", options.agents, known)
    check_names("--prices", options.prices, known)
    parts = [f"# {options.out.resolve().name}", read]
    if mixtures := origins_of(recorded).mixtures():
        parts += ["## Signs of trouble", "\n".join(f"- {sign}" for sign in mixtures)]
        for sign in mixtures:
            print(f"warning: {sign}", file=sys.stderr)
    calibration, critic, told = choose_critic(recorded, graded)
    parts += ["## Confidence", told]
    if critic is None:
        episodes = [recalibrate(e, calibration) for e in recorded]
    else:
        files["profile_critic.json"] = critic.curve
        episodes = [criticise(e, critic) for e in recorded]
    parts.append("## When to refine")
    groups = make_groups(episodes, graded)
    refined = groups.rollout_mask & (groups.actions == REFINE)
    if refined.any():
        gains = fit_gains(groups, calibration, options.cost).model_copy(
            update={"critic": critic_of(episodes)}
        )
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
        values = measure_asking(options, episodes, graded).model_copy(
            update={"critic": critic_of(episodes), "calibration": calibration}
        )
    except ConfigurationError as error:
        parts.append(f"Nothing tells it: {error}.")
    else:
        files["recruiting.json"] = values
        parts.append(describe_asking(values))
    if not {"expected_gain.json", "recruiting.json"} & set(files):
        raise ConfigurationError("neither rule can be measured:\n" + "\n".join(parts[2:]))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (options.out / name).write_text(content.model_dump_json(indent=1) + "\n")
    text = "\n\n".join(parts) + "\n"
    (options.out / "report.md").write_text(text)
    print(text)
    return text


def check_names(option: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse an option that names an agent which nobody in the traces has.

    Raises:
        ConfigurationError: It does.
    """
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(
            f"{option} {unknown[0]}: nobody in the traces has this name. They have "
            f"{', '.join(known)}"
        )


def choose_critic(
    episodes: Sequence[Episode], graded: Grader
) -> tuple[Calibration, ProfileCritic | None, str]:
    """Return a calibration of the recorded confidence, or a critic that is better, and say why.

    Raises:
        ConfigurationError: There is no confidence, and no profile critic can be fitted either.
    """
    judged = judge(episodes, graded)
    known = auroc(judged.confidence, judged.right.astype(bool)) if len(judged) else None
    if known is not None and np.isnan(known):
        return fit_calibration(judged), None, ALL_ALIKE
    critic = fit_profile(gather_looks(episodes, graded))
    found = critic.curve.auroc or 0.0
    if known is not None and found < known + LEAST_GAIN:
        return (
            fit_calibration(judged),
            None,
            KEPT.format(known=f"{known:.3f}", auroc=f"{found:.3f}"),
        )
    instead = "The traces hold no confidence."
    if known is not None:
        instead = f"That of the recorded confidence is {known:.3f}."
    return Calibration({}), critic, PROFILED.format(auroc=found, instead=instead)


def read_graded(paths: Iterable[Path], labels: Mapping[str, str]) -> tuple[list[Episode], str]:
    """Return the sound episodes with a reference, and what became of the other records.

    Raises:
        ConfigurationError: There is no such episode, or a consensus rule is not built in.
    """
    kept: list[Episode] = []
    dropped: Counter[str] = Counter()
    reader = TraceReader(paths)
    for recorded in reader:
        known = labels.get(recorded.id, recorded.reference)
        try:
            recalibrate(recorded, Calibration({}))  # a record that contradicts itself fails
        except ConfigurationError:  # its consensus rule is not built in
            raise
        except CONTRADICTIONS:
            dropped["contradictory"] += 1
            continue
        if known is None:
            dropped["no reference"] += 1
        else:
            kept.append(recorded.model_copy(update={"reference": known}))
    dropped["unreadable"] = reader.counts["skipped"]
    told = describe_records(reader.counts.total(), dropped)
    if not kept:
        raise ConfigurationError(f"no episode has a reference. {told}. Check --traces and --labels")
    return kept, told


def critic_of(episodes: Sequence[Episode]) -> str | None:
    """Return the name of the critic of all episodes. None: they have several, or none is known."""
    names = {episode.options.get("critic") for episode in episodes}
    return str(names.pop()) if len(names) == 1 and not names & {None, LOGGED} else None


def measure_asking(
    options: RuleOptions, episodes: Sequence[Episode], graded: Grader
) -> AskingValues:
    """Compute the values of asking on.

    Raises:
        ConfigurationError: No episode shows what everybody says, or their votes were counted by
            different rules.
    """
    names = {str(episode.options["consensus"]) for episode in episodes}
    if len(names) > 1:
        raise ConfigurationError(
            f"the votes were counted by different rules ({', '.join(sorted(names))}): give the "
            "folders of one rule"
        )
    prices = dict(options.prices)
    for episode in episodes:
        for agent, price in prices_of(episode.agents).items():
            prices.setdefault(agent, price)
    rule = rule_of(episodes[-1].model_copy(update={"category": None}))
    asked = gather(episodes, graded, rule, options.agents)
    return fit_asking(
        asked, prices=prices, cost=options.cost, wave=options.wave, consensus=names.pop()
    )


def command() -> None:
    """Run the command."""
    run_command(fit_rules, RuleOptions, __doc__)
