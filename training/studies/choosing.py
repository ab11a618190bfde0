"""Which of several recorded answers is right? Rules compared by cross-validation over questions.

    python -m training.studies.choosing --traces traces/ --out runs/choosing
    python -m training.studies.choosing --traces traces/ --team ann bo cy --out runs/choosing

The questions are split into folds, several times. For each fold everything is learned from the
other folds: the calibration of confidences, how often each agent is right, who is best, and the
learned consensus. Then every rule chooses among the first answers to the questions of the fold.
Differences are paired, with intervals over questions.

Risk control is tried on random splits of the questions. One half chooses the bar, and the errors
among the accepted answers are counted on the other half.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph import TraceReader
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.risk import count_errors
from training.collect.files import write_json
from training.collect.team import remembering_grader
from training.command import StudyOptions, check_least, check_questions, run_command, write_results
from training.learn.asking import proposals_of
from training.learn.ballots import Ballots, ballots_of, make_ballots, shuffle_into_folds
from training.learn.calibrate import fit_calibration, judged_of
from training.learn.choices import (
    LEARNED,
    Choice,
    choose,
    find_bars,
    fit_choosers,
    join_folds,
    shared_rules,
)
from training.learn.consensus_fit import choose_strength
from training.learn.dataset import check_answer
from training.learn.display import table
from training.learn.measures import honest_error, mean_interval
from training.learn.profile_fit import criticise, fit_profile, gather_looks
from training.learn.recorded import read_recorded
from training.learn.rewards import Grader


@dataclass
class ChoosingOptions(StudyOptions):
    """Options of the comparison."""

    out: Path = Path("runs/choosing")
    """Folder for `results.md` and `results.json`."""
    team: tuple[str, ...] = ()
    """Agents to choose among. Default: all."""
    critic: Literal["recorded", "profile"] = "recorded"
    """Whose confidence counts: the recorded one, or that of a profile critic (no call), which the
    other folds fit."""
    risk: float = 0.05
    """Greatest share of wrong answers among the accepted ones."""
    splits: int = 200
    """Random splits that risk control is tried on."""

    def check(self) -> None:
        """Raise `ConfigurationError` for options that cannot work."""
        super().check()
        check_least(self, splits=1)
        if not 0 < self.risk < 1:
            raise ConfigurationError(f"--risk must be between 0 and 1, got {self.risk}")


def choose_by_folds(ballots: Ballots, options: ChoosingOptions, seed: int, read: Any) -> Any:
    """Answer the proposals of every question by what was learned from the other folds.

    `read` makes the ballots with the calibration that some questions give. The result is a `Choice`
    by rule, in the order of the states of proposals.
    """
    folds = shuffle_into_folds(ballots, options.folds, seed)
    asked = ballots.first
    parts = []
    places = [np.flatnonzero(folds[asked] == fold) for fold in range(options.folds)]
    for fold in range(options.folds):
        rest, here = folds != fold, asked & (folds == fold)
        known = read({ballots.questions[q] for q in np.unique(ballots.question[rest])})
        learned = known.select(rest)
        choosers = fit_choosers(learned, choose_strength(learned, seed), seed)
        parts.append(choose(choosers, known.select(here)))
    return join_folds(parts, places, int(asked.sum()))


def try_risk(choice: Choice, options: ChoosingOptions) -> dict[str, float]:
    """Choose the bar on half of the questions and count errors on the others, many times."""
    kept, shares, errors, nothing = 0, [], [], 0
    bars = np.unique(find_bars(choice.probability)).tolist()
    right = choice.right > 0
    for split in range(options.splits):
        order = np.random.default_rng([7, split]).permutation(len(right))
        checked, fresh = np.array_split(order, 2)
        curve = count_errors(bars, choice.probability[checked].tolist(), right[checked].tolist())
        bar = curve.bar(options.risk)
        accepted = fresh[:0] if bar is None else fresh[choice.probability[fresh] >= bar]
        shares.append(len(accepted) / len(fresh))
        nothing += bar is None
        wrong = float((~right[accepted]).mean()) if len(accepted) else 0.0
        kept += wrong <= options.risk
        if len(accepted):
            errors.append(wrong)
    return {
        "splits": options.splits,
        "promise kept": kept / options.splits,
        "accepted": float(np.mean(shares)),
        "errors among the accepted": float(np.mean(errors)) if errors else 0.0,
        "no bar found": nothing / options.splits,
    }


def study(options: ChoosingOptions) -> dict[str, Any]:
    """Compare the rules, write the results, and return the content of `results.json`."""
    options.check()
    check_answer(options.traces, options.answer)
    right = remembering_grader(options.answer)
    recorded = read_recorded(options.traces, right)
    raw = ballots_of(recorded, Calibration({}))
    unknown = set(options.team) - set(raw.agents)
    if unknown:
        raise ConfigurationError(
            f"--team {', '.join(sorted(unknown))}: the traces have {', '.join(raw.agents)}"
        )
    judged = judged_of(recorded)

    def of_team(ballots: Ballots) -> Ballots:
        return ballots.of_agents(options.team) if options.team else ballots

    def read_calibrated(questions: set[str]) -> Ballots:
        if not len(judged):  # they have no confidence
            return ballots
        known = np.array([question in questions for question in judged.question], bool)
        calibration = fit_calibration(judged.select(known))
        return of_team(ballots_of(recorded, calibration))

    ballots = of_team(raw)
    read: Callable[[set[str]], Ballots] = read_calibrated
    if options.critic == "profile":
        ballots = ballots.select(ballots.first)
        read = read_profiled(options, ballots, right)
    check_questions(len(np.unique(ballots.question)), options.folds)
    seeds = tqdm(range(options.seeds), desc="splits into folds")
    runs = [choose_by_folds(ballots, options, seed, read) for seed in seeds]
    question = ballots.question[ballots.first]
    results = summarise(runs, question)
    results["risk"] = try_risk(runs[0][LEARNED], options)
    results["agents"] = list(ballots.agents)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "results.json", results)
    write_results(options.out, format_results(results, options))
    return results


def read_profiled(
    options: ChoosingOptions, ballots: Ballots, right: Grader
) -> Callable[[set[str]], Ballots]:
    """Return what gives the ballots with the confidence of a profile critic.

    It is fitted on the proposals to some questions, and judges those to all.
    """
    recorded = TraceReader(options.traces)
    asked = [e for e in recorded if not set(e.team).isdisjoint(ballots.agents)]
    episodes = [proposals_of(e, ballots.agents) for e in asked if e.reference is not None]

    def read(questions: set[str]) -> Ballots:
        critic = fit_profile(gather_looks([e for e in episodes if e.question in questions], right))
        return make_ballots((criticise(e, critic) for e in episodes), right)

    return read


def summarise(runs: list[Mapping[str, Choice]], question: NDArray[np.int64]) -> dict[str, Any]:
    """Return figures by rule: the mean over the ways to split, with intervals over questions."""
    mean = {n: np.mean([run[n].right for run in runs], axis=0) for n in shared_rules(runs)}
    rules = {}
    for name, right in mean.items():
        errors = [run[name].calibration_error for run in runs]
        gap = mean_interval(mean[LEARNED] - right, question, samples=4000)
        accuracy = mean_interval(right, question, samples=4000)
        rules[name] = {
            "accuracy": [accuracy.mean, accuracy.low, accuracy.high],
            "learned minus it": [gap.mean, gap.low, gap.high],
            "calls": float(np.mean([run[name].calls for run in runs])),
            "calibration error": None if np.isnan(errors).any() else float(np.mean(errors)),
            "of honest probabilities": honest_error(runs[0][name].every[:, 0]),
        }
    return {"rules": rules, "questions": len(np.unique(question))}


def format_results(results: Mapping[str, Any], options: ChoosingOptions) -> str:
    """Return the results as Markdown."""

    def interval(values: list[float], sign: str = "") -> str:
        mean, low, high = (f"{x:{sign}.3f}" for x in values)
        return f"{mean} [{low}, {high}]"

    rows = [
        [
            name,
            interval(one["accuracy"]),
            "" if name == LEARNED else interval(one["learned minus it"], "+"),
            f"{one['calls']:.2f}",
            ""
            if one["calibration error"] is None
            else f"{one['calibration error']:.3f} ({one['of honest probabilities']:.3f})",
        ]
        for name, one in results["rules"].items()
    ]
    risk = results["risk"]
    return (
        "# Choosing among recorded answers\n\n"
        + table(
            ["rule", "accuracy", f"{LEARNED} − it", "calls", "calibration error (by chance)"], rows
        )
        + f"\n\n{results['questions']} questions, agents {', '.join(results['agents'])}. "
        f"{options.folds} folds, mean of {options.seeds} ways to split. Intervals are 95 %, "
        "paired, from resampling questions. The calibration error is that of P(right) of every "
        "answer, beside what chance gives to probabilities that are exactly right.\n\n"
        f"Risk control at {options.risk:g}: {risk['accepted']:.1%} of the answers are accepted, "
        f"with {risk['errors among the accepted']:.1%} errors among them. The promise was kept on "
        f"{risk['promise kept']:.1%} of {risk['splits']} random splits into two halves. "
        f"{risk['no bar found']:.1%} of the splits found no bar.\n"
    )


if __name__ == "__main__":
    run_command(study, ChoosingOptions, __doc__)
