r"""What would other methods have answered in recorded debates of one round? Held-out folds.

    python training/collect.py ... --rounds 1 --router always-refine --explore 0 --alternatives 0 \
        --critic logprob
    python -m training.studies.one_round --traces traces/ --out runs/one-round

Such a debate costs two calls an agent, and it holds all that any policy of one round would have
seen and done: in one round, what an agent's REFINE gives depends on nobody else's action. So every
method answers from the same samples, without a call. This is for models so slow that a question is
dear. `--fresh` takes further folders, in each of which the team proposed once more on the same
questions (`--router always-persist`). They give larger votes, and the control of every router: the
same decisions, but each REFINE is a fresh proposal of the first of these folders. `--greedy` takes
a folder of proposals at temperature 0.

The questions are split into folds. For each fold the calibration, the threshold's two numbers, the
strongest of unlike agents and the routers come from the other folds. With `--train` they come from
debates on other questions.
"""

import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph import AnswerSchema, Episode, ThresholdRouter, load_router
from mpdf_langgraph.answers.schema import schema_for
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import ConsensusRule
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.expected_gain import ExpectedGainRouter
from mpdf_langgraph.learned_router import LearnedRouter
from mpdf_langgraph.options import check_number
from mpdf_langgraph.router import Router
from training.collect.questions import as_told
from training.collect.team import Answer, answer_schema, remembering_grader
from training.command import check_least, run_command, write_results
from training.evaluate import votes
from training.evaluate.options import EvaluateOptions
from training.learn.ballots import make_ballots
from training.learn.calibrate import fit_calibration, judge
from training.learn.consensus_fit import fit_consensus
from training.learn.dataset import check_answer, make_groups
from training.learn.display import table
from training.learn.fit_config import Algorithm, Config
from training.learn.gains import fit_gains
from training.learn.measures import (
    calibration_error,
    honest_error,
    mean_interval,
    widen_by_fits,
)
from training.learn.profile_fit import criticise, fit_profile, gather_looks, with_confidence
from training.learn.recalibrate import recalibrate, with_responses
from training.learn.rewards import Grader
from training.studies.fits import LEARNED, Fit, learned_name, must_fit, write_episodes
from training.studies.recorded_round import (
    CONFIDENCE,
    MAJORITY,
    Answered,
    Debate,
    charge,
    read_debates,
    read_proposals,
)

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
    """Folders of traces where the same team proposed on the same questions, once more in each."""
    greedy: Path | None = None
    """Folder of traces where it proposed at temperature 0."""
    train: tuple[Path, ...] = ()
    """Folders of debates to learn from, on other questions. Default: the other folds."""
    critic: Literal["recorded", "profile"] = "recorded"
    """Whose confidence counts: the recorded one, or that of a profile critic (no call)."""
    out: Path = Path("runs/one_round")
    """Folder for `results.md`."""
    answer: Answer = "math"
    """How answers are compared, with one another and with references. Code runs in a sandbox."""
    algorithms: tuple[Algorithm, ...] = ("softrankpo", "none")
    """Second stages of the fits, each a method. `none` stops after SFT."""
    cost: float = 0.0
    """Reward taken off per 1,000 tokens."""
    prices: dict[str, int] = field(default_factory=dict)
    """Price of a token, by agent: each counts as so many tokens, in learning too. Default: 1."""
    folds: int = 5
    """Parts that the questions are split into."""
    seeds: int = 3
    """Fits for each fold."""
    jobs: int = 1
    """Fits side by side."""


@dataclass(frozen=True)
class Recorded:
    """What is recorded of a question.

    Attributes:
        debate: Of one round.
        fresh: Episodes in which the team proposed once more.
        greedy: One in which it proposed at temperature 0.
    """

    debate: Episode
    fresh: tuple[Episode, ...] = ()
    greedy: Episode | None = None

    def map(
        self, change: Callable[[Episode], Episode], others: Callable[[Episode], Episode]
    ) -> "Recorded":
        """Return the same with the debate changed, and the other episodes in another way."""
        fresh = tuple(map(others, self.fresh))
        return Recorded(change(self.debate), fresh, self.greedy and others(self.greedy))


@dataclass
class Fold:
    """What is learned on one part of the questions, and the rest to answer.

    Attributes:
        rest: The questions to learn from, with the confidence that counts.
        held_out: The others, each with its fresh proposals and its greedy ones.
        fits: Fitted routers, by algorithm.
    """

    rest: Sequence[Episode]
    held_out: Sequence[Recorded]
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
            routers[learned_name(algorithm)] = [load_router(fit.folder) for fit in those]
    strongest = find_strongest(known)
    for asked in fold.held_out:
        equivalent = schema_for(schema, asked.debate.question).equivalent

        def open_with(
            curves: Calibration, asked: Recorded = asked, equivalent: Grader = equivalent
        ) -> Debate:
            fresh = [with_responses(one, curves.apply) for one in asked.fresh]
            return Debate(recalibrate(asked.debate, curves), is_right, fresh, equivalent)

        debate = open_with(calibration)
        everybody = debate.refining(only_without_answer=False)
        unanswered = debate.refining(only_without_answer=True)
        found = {"single": debate.single()}
        if asked.greedy is not None:
            alone = Debate(asked.greedy, is_right)
            found |= {"greedy": alone.single(), "greedy vote": alone.play({}, MAJORITY)}
        found |= vote(debate, strongest)
        found[f"vote of {len(debate.names)}{BY_LEARNED}"] = debate.play({}, consensus)
        for ending, rule in (("", MAJORITY), (BY_CONFIDENCE, CONFIDENCE), (BY_LEARNED, consensus)):
            found[f"debate, 1 round{ending}"] = debate.play(everybody, rule)
        found["refine where no answer"] = debate.play(unanswered, CONFIDENCE)
        for name, router in rules.items():
            found |= _both_rules(name, [(debate, router)], consensus)
        for name, seeds in routers.items():
            pairs = [(open_with(r.calibration or calibration), r) for r in seeds]
            found |= _both_rules(name, pairs, consensus)
        found["oracle of actions"] = debate.oracle()
        yield found


def find_strongest(debates: Sequence[Debate]) -> str | None:
    """Return the agent whose proposals are right most often. None: all have the same model."""
    sums = Counter[str]()
    for debate in debates:
        sums.update(dict(zip(debate.names, debate.rights(), strict=True)))
    models = {agent["model"] for debate in debates for agent in debate.episode.agents}
    return max(sums, key=sums.__getitem__) if len(models) > 1 else None


def vote(debate: Debate, strongest: str | None) -> dict[str, Answered]:
    """Return what votes of the proposals and the fresh ones give, and those of the strongest."""
    pool, size = debate.pool(), len(debate.names)
    most = len(pool.agents)
    methods = {}
    for k in range(size, most + 1, size):
        methods[f"vote of {k}"] = votes.vote(k)
        methods[f"vote of {k}{BY_CONFIDENCE}"] = votes.weighted_vote(k)
    if most > size:
        methods[f"best of {most}{BY_CONFIDENCE}"] = votes.best_of(most)
        methods[f"adaptive consistency, {most} at most"] = votes.adaptive_consistency(most=most)
    if strongest in debate.names:
        place = debate.names.index(strongest)
        for k in range(1, most // size + 1):
            methods[f"strongest alone, vote of {k}"] = votes.member(place, size, votes.vote(k))
    results = {name: method(pool) for name, method in methods.items()}
    found = {name: Answered(debate.right(one.answer), one.tokens) for name, one in results.items()}
    # Of the whole team, also the agreement of its proposals counts as confidence.
    return {**found, f"vote of {size}{BY_CONFIDENCE}": debate.play({}, CONFIDENCE)}


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
            tuple(pair for run in runs for pair in run.stated),
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
    check_least(options, seeds=1, jobs=1)
    check_answer((*options.traces, *options.train), options.answer)
    schema = answer_schema(options.answer)
    is_right = remembering_grader(options.answer)
    recorded = read_recorded(options)
    results: dict[str, list[Answered]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="one-round-") as folder:
        folds = [
            _make_fold(options, Path(folder, f"rest-{k}.jsonl"), rest, held_out, is_right)
            for k, (rest, held_out) in enumerate(_split(options, recorded))
        ]
        fits = [fit for fold in folds for those in fold.fits.values() for fit in those]
        must_fit(fits, options.jobs)
        for fold in folds:
            for found in answer_fold(fold, options.cost, is_right, schema):
                for name, answered in found.items():
                    results[name].append(answered)
    text = format_results(options, results)
    write_results(options.out, text)
    return text


def read_recorded(options: OneRoundOptions) -> dict[str, Recorded]:
    """Return what is recorded of every question that all folders have.

    Raises:
        ConfigurationError: A price is none, or the debates are those of several teams.
    """
    for agent, price in options.prices.items():
        check_number(f"--prices {agent}", price, 0, whole=True)
    debates = read_debates(options.traces)
    further = [read_proposals([folder]) for folder in options.fresh]
    greedy = read_proposals([options.greedy]) if options.greedy else None
    folders = further if greedy is None else [*further, greedy]
    if len({frozenset(debate.team) for debate in debates.values()}) > 1:
        raise ConfigurationError("the debates are those of several teams: give the folders of one")
    charged = partial(charge, prices=options.prices)
    recorded = {
        key: Recorded(
            debate, tuple(one[key] for one in further), None if greedy is None else greedy[key]
        ).map(charged, charged)
        for key, debate in debates.items()
        if all(key in folder for folder in folders)
    }
    if left_out := len(debates) - len(recorded):
        print(f"{left_out} debates are left out, as --fresh or --greedy lacks their question")
    return recorded


def _split(
    options: OneRoundOptions, recorded: Mapping[str, Recorded]
) -> Iterator[tuple[list[Episode], list[Recorded]]]:
    """Yield debates to learn from, and questions to answer."""
    asked = [*recorded.values()]
    if options.train:
        rest = read_debates(options.train)
        told = {as_told(one.debate) for one in asked}
        if both := told & {as_told(e) for e in rest.values()}:
            raise ConfigurationError(f"{len(both)} questions of --train are in --traces too")
        if len(rest) < LEAST or not asked:
            raise ConfigurationError(f"{len(rest)} debates are too few to learn from")
        yield [charge(e, options.prices) for e in rest.values()], asked
        return
    if len(asked) < LEAST * options.folds or options.folds < 2:
        raise ConfigurationError(f"{len(asked)} debates are too few for {options.folds} folds")
    place = np.random.default_rng(0).permutation(len(asked)) % options.folds
    for number in range(options.folds):
        others = [one.debate for one, p in zip(asked, place, strict=True) if p != number]
        yield others, [one for one, p in zip(asked, place, strict=True) if p == number]


def _make_fold(
    options: OneRoundOptions,
    path: Path,
    rest: list[Episode],
    held: list[Recorded],
    is_right: Grader,
) -> Fold:
    """Prepare what is learned from `rest`, which is written to `path` for the fits."""
    if options.critic == "profile":
        critic = fit_profile(gather_looks(rest, is_right))
        judged = partial(criticise, critic=critic, consensus="confidence")
        rest = [judged(e) for e in rest]
        held = [one.map(judged, partial(with_confidence, critic=critic)) for one in held]
    write_episodes(path, rest)
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
    team_vote = next(name for name in right if name.startswith("vote of "))
    number: NDArray[np.int64] = np.arange(len(right[team_vote]))
    learned = next((name for name in right if name.startswith(LEARNED)), None)
    headings = ["method", "accuracy", "tokens", f"it − {team_vote}"]
    headings += [f"{learned} − it"] if learned else []
    headings += ["calibration error (by chance)"]

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
        row = [name, accuracy.short("", 3), tokens, difference(name, team_vote)]
        row += [difference(learned, name)] if learned else []
        rows.append([*row, describe_error(results[name])])
    learned_from = f"the other {options.folds - 1} of {options.folds} folds"
    if options.train:
        learned_from = ", ".join(map(str, options.train))
    asked = ", ".join(map(str, options.traces))
    prices = ", ".join(f"{agent} {price}" for agent, price in options.prices.items())
    return table(headings, rows) + (
        f"\n\n{len(number)} questions of {asked}, each answered by what was learned from "
        f"{learned_from}. Routers: mean of {options.seeds} seeds, greedy, cost {options.cost:g} "
        "per 1,000 tokens. Intervals are 95 %, paired, from resampling questions, and widened by "
        "what the seeds differ beyond that. The calibration error is that of P(right) of the "
        "group's answer, beside what chance gives to probabilities that are exactly right. One "
        "consensus states it, fitted on all that the routers learn from."
        + (f" Tokens count as often as their price: {prices}.\n" if prices else "\n")
    )


def describe_error(answered: Sequence[Answered]) -> str:
    """Return the calibration error of P(right), and that by chance: the means of the fits.

    Empty: no P(right) is stated.
    """
    errors, by_chance = [], []
    for pairs in zip(*(one.stated for one in answered), strict=True):
        stated = np.array([pair for pair in pairs if pair is not None])
        if len(stated) and (honest := honest_error(stated.T[0])) is not None:
            errors.append(calibration_error(*stated.T))
            by_chance.append(honest)
    return f"{np.mean(errors):.3f} ({np.mean(by_chance):.3f})" if errors else ""


if __name__ == "__main__":
    run_command(study, OneRoundOptions, __doc__)
