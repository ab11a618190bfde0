"""What would other methods have answered in recorded debates of one round? Held-out folds.

    python training/collect.py ... --rounds 1 --router always-refine --explore 0 --alternatives 0
    python -m training.studies.one_round --traces traces/ --out runs/one-round

Such a debate costs two calls an agent, and it holds all that any policy of one round would have
seen and done: in one round, what an agent's REFINE gives depends on nobody else's action. So every
method answers from the same samples, without a call. This is for models so slow that a question is
dear. `--fresh` takes a second folder, where the team proposed once more on the same questions
(`--router always-persist`). It gives votes of twice the size, and the control of every router: the
same decisions, but each REFINE is a fresh proposal.

The questions are split into folds. For each fold the calibration, the threshold's two numbers and
the routers come from the other folds. With `--train` they come from debates on other questions.
"""

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph import AnswerSchema, Episode, MPDFError, ThresholdRouter, load_router
from mpdf_langgraph.answers.schema import schema_for
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import ConsensusRule
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.expected_gain import ExpectedGainRouter
from mpdf_langgraph.learned_router import LearnedRouter
from mpdf_langgraph.router import Router
from training.collect.team import answer_schema, grader
from training.command import run_command, write_results
from training.evaluate.options import EvaluateOptions
from training.learn.ballots import make_ballots
from training.learn.calibrate import fit_calibration, judge
from training.learn.consensus_fit import fit_consensus
from training.learn.dataset import make_groups
from training.learn.display import table
from training.learn.fit_config import Algorithm, Config
from training.learn.gains import fit_gains
from training.learn.measures import mean_interval, widen_by_fits
from training.learn.profile_fit import criticise, fit_profile, gather_looks, with_confidence
from training.learn.recalibrate import recalibrate
from training.learn.rewards import Grader
from training.studies.fits import Fit, run_fits
from training.studies.recorded_round import (
    CONFIDENCE,
    MAJORITY,
    Answered,
    Debate,
    read_debates,
    read_proposals,
)

LEARNED, VOTE = "learned", "vote of 3"
LEAST = 10
"""Debates that a fold has at least."""
BY_CONFIDENCE, BY_LEARNED = " by confidence", ", learned consensus"
CONTROL = ", learned consensus: its control"


@dataclass
class OneRoundOptions:
    """Options of the study."""

    traces: tuple[Path, ...]
    """Folders of traces of one-round debates."""
    fresh: tuple[Path, ...] = ()
    """Folders of traces where the same team proposed once more on the same questions."""
    train: tuple[Path, ...] = ()
    """Folders of debates to learn from, on other questions. Default: the other folds."""
    critic: Literal["recorded", "profile"] = "recorded"
    """Whose confidence counts: the recorded one, or that of a profile critic (no call)."""
    out: Path = Path("runs/one_round")
    """Folder for `results.md`."""
    answer: Literal["math", "choice", "text", "code"] = "math"
    """How answers are compared, with one another and with references. Code runs in a sandbox."""
    algorithms: tuple[Algorithm, ...] = ("softrankpo", "none")
    """Second stages of the fits, each a method. `none` stops after SFT."""
    cost: float = 0.0
    """Reward taken off per 1,000 tokens."""
    folds: int = 5
    """Parts that the questions are split into."""
    seeds: int = 3
    """Fits for each fold."""
    jobs: int = 1
    """Fits side by side."""


@dataclass
class Fold:
    """What is learned on one part of the questions, and the rest to answer.

    Attributes:
        rest: The questions to learn from, with the confidence that counts.
        held_out: The others.
        fits: Fitted routers, by algorithm.
    """

    rest: Sequence[Episode]
    held_out: Sequence[tuple[Episode, Episode | None]]
    fits: Mapping[Algorithm, Sequence[Fit]]


def answer_fold(
    fold: Fold, cost: float, is_right: Grader, schema: AnswerSchema
) -> Iterator[dict[str, Answered]]:
    """Yield what every method gives on each held-out question."""
    calibration = fit_calibration(judge(fold.rest, is_right))
    calibrated = [recalibrate(e, calibration) for e in fold.rest]
    known = [Debate(e, is_right) for e in calibrated]
    consensus = fit_consensus(make_ballots(calibrated, is_right)).of(None)
    gains = fit_gains(make_groups(calibrated, is_right), Calibration({}), cost)
    rules: dict[str, Router] = {
        "threshold, calibrated and tuned": tune_threshold(known),
        "expected gain": ExpectedGainRouter(gains),
    }
    routers: dict[str, list[LearnedRouter]] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # none has passed its gate yet
        for algorithm, those in fold.fits.items():
            name = f"{LEARNED}, {'SFT alone' if algorithm == 'none' else algorithm}"
            routers[name] = [load_router(fit.folder) for fit in those]
    for episode, fresh in fold.held_out:
        equivalent = schema_for(schema, episode.question).equivalent
        debate = Debate(recalibrate(episode, calibration), is_right, fresh, equivalent)
        everybody = debate.refining(only_without_answer=False)
        unanswered = debate.refining(only_without_answer=True)
        found = {"single": debate.single()}
        for ending, rule in (("", MAJORITY), (BY_CONFIDENCE, CONFIDENCE), (BY_LEARNED, consensus)):
            found[f"{VOTE}{ending}"] = debate.play({}, rule)
            if fresh:
                found[f"vote of 6{ending}"] = debate.vote_of_all(rule)
            found[f"debate, 1 round{ending}"] = debate.play(everybody, rule)
        found["refine where no answer"] = debate.play(unanswered, CONFIDENCE)
        for name, router in rules.items():
            found |= _both_rules(name, [(debate, router)], consensus)
        for name, seeds in routers.items():
            pairs = [(recalibrate(episode, r.calibration or calibration), r) for r in seeds]
            debates = [(Debate(e, is_right, fresh, equivalent), r) for e, r in pairs]
            found |= _both_rules(name, debates, consensus)
        found["oracle of actions"] = debate.oracle()
        yield found


def _both_rules(
    name: str, pairs: Sequence[tuple[Debate, Router]], consensus: ConsensusRule
) -> dict[str, Answered]:
    """Return what routers give on average, counted in two ways, and with their control."""
    found = {}
    ways = [("", CONFIDENCE, False), (BY_LEARNED, consensus, False)]
    if pairs[0][0].fresh:
        ways.append((CONTROL, consensus, True))
    decided = [(debate, debate.decide(router)) for debate, router in pairs]
    for ending, rule, control in ways:
        runs = [debate.play(actions, rule, control=control) for debate, actions in decided]
        found[name + ending] = Answered(
            float(np.mean([run.right for run in runs])),
            float(np.mean([run.tokens for run in runs])),
            tuple(run.right for run in runs),
        )
    return found


def tune_threshold(debates: Sequence[Debate]) -> ThresholdRouter:
    """Return the most accurate threshold router, at a tie that with the fewest tokens."""
    routers = [
        ThresholdRouter(bar=bar, gap=gap)
        for bar in EvaluateOptions.bars
        for gap in EvaluateOptions.gaps
    ]

    def worth(router: ThresholdRouter) -> tuple[float, float]:
        found = [debate.play(debate.decide(router), CONFIDENCE) for debate in debates]
        return sum(f.right for f in found), -sum(f.tokens for f in found)

    return max(routers, key=worth)


def study(options: OneRoundOptions) -> str:
    """Return the table of results, and write it."""
    schema = answer_schema(options.answer)
    is_right = cache(grader(schema))
    debates = read_debates(options.traces)
    fresh = read_proposals(options.fresh)
    if fresh:  # the others have no control
        debates = {key: episode for key, episode in debates.items() if key in fresh}
    results: dict[str, list[Answered]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="one-round-") as folder:
        folds = [
            _make_fold(options, Path(folder, f"rest-{k}.jsonl"), rest, held_out, is_right)
            for k, (rest, held_out) in enumerate(_split(options, debates, fresh))
        ]
        fits = [fit for fold in folds for those in fold.fits.values() for fit in those]
        failed = run_fits(fits, options.jobs)
        if failed:
            raise MPDFError(f"a fit failed: {next(iter(failed.values()))}")
        for fold in folds:
            for found in answer_fold(fold, options.cost, is_right, schema):
                for name, answered in found.items():
                    results[name].append(answered)
    text = format_results(options, results)
    write_results(options.out, text)
    return text


def _split(
    options: OneRoundOptions, debates: Mapping[str, Episode], fresh: Mapping[str, Episode]
) -> Iterator[tuple[list[Episode], list[tuple[Episode, Episode | None]]]]:
    """Yield debates to learn from, and those to answer, each with its fresh proposals."""
    pairs = [(episode, fresh.get(key)) for key, episode in debates.items()]
    if options.train:
        rest = read_debates(options.train)
        if both := rest.keys() & debates.keys():
            raise ConfigurationError(f"{len(both)} questions of --train are in --traces too")
        if len(rest) < LEAST or not pairs:
            raise ConfigurationError(f"{len(rest)} debates are too few to learn from")
        yield [*rest.values()], pairs
        return
    if len(debates) < LEAST * options.folds or options.folds < 2:
        raise ConfigurationError(f"{len(debates)} debates are too few for {options.folds} folds")
    place = np.random.default_rng(0).permutation(len(debates)) % options.folds
    for number in range(options.folds):
        others = [e for (e, _), p in zip(pairs, place, strict=True) if p != number]
        yield others, [pair for pair, p in zip(pairs, place, strict=True) if p == number]


def _make_fold(
    options: OneRoundOptions,
    path: Path,
    rest: list[Episode],
    held: list[tuple[Episode, Episode | None]],
    is_right: Grader,
) -> Fold:
    """Prepare what is learned from `rest`, which is written to `path` for the fits."""
    if options.critic == "profile":
        critic = fit_profile(gather_looks(rest, is_right))
        judged = partial(criticise, critic=critic, consensus="confidence", rule=CONFIDENCE)
        rest = [judged(e) for e in rest]
        held = [(judged(e), again and with_confidence(again, critic)) for e, again in held]
    path.write_bytes(b"".join(e.to_json().rstrip() + b"\n" for e in rest))
    shared = Config(
        traces=(path,),
        consensus="recorded",
        out=path.parent / "fits",
        answer=options.answer,
        values="one-step",  # there is one round
        cost=options.cost,
        threads=1,
    )
    fits: dict[Algorithm, list[Fit]] = {
        algorithm: [
            Fit(replace(shared, algorithm=algorithm, seed=seed)) for seed in range(options.seeds)
        ]
        for algorithm in options.algorithms
    }
    return Fold(rest, held, fits)


def format_results(options: OneRoundOptions, results: Mapping[str, Sequence[Answered]]) -> str:
    """Return accuracies, tokens, and what the methods gain over a vote and over one another."""
    right = {name: np.array([a.right for a in those]) for name, those in results.items()}
    number: NDArray[np.int64] = np.arange(len(right[VOTE]))
    learned = next((name for name in right if name.startswith(LEARNED)), None)
    headings = ["method", "accuracy", "tokens", f"it − {VOTE}"]
    headings += [f"{learned} − it"] if learned else []

    # By fit, where there are several, ``[fits, questions]``. A fit is one seed in all folds.
    tables = {n: np.array([a.fits or (a.right,) for a in those]).T for n, those in results.items()}

    def difference(one: str, other: str) -> str:
        if one == other:
            return ""
        found = mean_interval(right[one] - right[other], number)
        return widen_by_fits(found, tables[one] - tables[other]).short()

    rows = []
    for name, values in right.items():
        tokens = f"{np.mean([a.tokens for a in results[name]]):,.0f}"
        accuracy = widen_by_fits(mean_interval(values, number), tables[name])
        row = [name, accuracy.short("", 3), tokens, difference(name, VOTE)]
        rows.append([*row, difference(learned, name)] if learned else row)
    learned_from = f"the other {options.folds - 1} of {options.folds} folds"
    if options.train:
        learned_from = ", ".join(map(str, options.train))
    asked = ", ".join(map(str, options.traces))
    return table(headings, rows) + (
        f"\n\n{len(number)} questions of {asked}, each answered by what was learned from "
        f"{learned_from}. Routers: mean of {options.seeds} seeds, greedy, cost {options.cost:g} "
        "per 1,000 tokens. Intervals are 95 %, paired, from resampling questions, and widened by "
        "what the seeds differ beyond that.\n"
    )


if __name__ == "__main__":
    run_command(study, OneRoundOptions, __doc__)
