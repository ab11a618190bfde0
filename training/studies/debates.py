"""What would a policy have made of recorded debates? Cross-validation on their real outcomes.

    python -m training.studies.debates --traces traces/ --out runs/debates

The traces are debates (`collect.py --import` of a table with rounds). The questions are split into
folds, several times. With `--split` a fold is a category of questions or a size of team, so that
what is learned has to transfer to another one. For each fold everything is learned from the other
folds: the profile critic, the rates of the expected-gain rule, and the router of each algorithm.
Then these play the held-out debates. A REFINE gives what the agent really said in that round. An
agent that nobody asked again cannot refine. What an agent said in the second round was said to
agents that had all refined, so a policy may refine in it only if everybody has refined in the
first.

Messages are proposals and refined answers.
"""

import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph import TraceReader, load_router
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import (
    ConsensusRule,
    concession,
    confidence_weighted,
    majority,
    votes_of,
)
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.expected_gain import ExpectedGainRouter
from mpdf_langgraph.observation import Situation, observe
from mpdf_langgraph.profile_critic import ProfileCritic
from mpdf_langgraph.rounds import after_move, is_settled
from mpdf_langgraph.router import (
    Router,
    ThresholdRouter,
    behaviour,
    competences,
    for_team,
    make_router,
)
from mpdf_langgraph.state import ACTIONS, Response
from mpdf_langgraph.traces.records import Episode
from training.collect.team import remembering_grader
from training.command import StudyOptions, check_least, check_questions, run_command, write_results
from training.learn.dataset import check_answer, make_groups
from training.learn.display import table
from training.learn.fit_config import Algorithm, Config
from training.learn.gains import fit_gains
from training.learn.measures import mean_interval
from training.learn.profile_fit import criticise, fit_profile, gather_looks
from training.learn.recalibrate import recalibrate
from training.learn.rewards import Grader
from training.studies.fits import Fit, learned_name, must_fit, write_episodes

BARS, GAPS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9), (0.0, 0.1)
TUNED_ON = 600
"""Debates that the threshold rule is tuned on. More take long and change nothing."""
_APART = {
    "traces", "out", "labels", "answer", "most_turns", "algorithm", "consensus", "cost", "sweep",
    "drawn", "temperature", "seed", "device", "threads", "resume",
}  # fmt: skip
"""Options of a fit that the study sets, or that nothing shows of when a router is played."""
FIRST, RECORDED = "vote of the first answers", "the debate as recorded"
WEIGHTED = "weighted vote of the first answers"


@dataclass
class DebateOptions(StudyOptions):
    """Options of the cross-validation."""

    out: Path = Path("runs/debates")
    """Folder for `results.md`."""
    cost: float = 0.0
    """Price of 1,000 tokens, in accuracy. Of a message, where the traces report no tokens."""
    algorithms: tuple[Algorithm, ...] = ("softrankpo",)
    """Second stages of the fits, each a method. `none` stops after SFT."""
    settings: tuple[str, ...] = ()
    """Options of the first of them, each changed alone and a method, such as `tau=0`."""
    split: Literal["random", "category", "agents"] = "random"
    """How folds are made: at random, or one of each category of questions or size of team, the same
    ones for every seed."""
    jobs: int = 1
    """Fits side by side."""

    def check(self) -> None:
        """Raise `ConfigurationError` for options that cannot work."""
        super().check()
        check_least(self, jobs=1)
        if not self.algorithms:
            raise ConfigurationError("--algorithms needs one or more")
        configs(Config(()), self)


@dataclass
class Played:
    """What a method gave over all splits: right, messages and question each time, and actions."""

    results: list[tuple[bool, int, int]] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)


def last_round(episode: Episode) -> int:
    """Return the last round in which somebody answered again."""
    return max(response["round"] for response in episode.responses.values())


def play(
    episode: Episode, router: Router, rule: ConsensusRule, counted: Counter[str] | None = None
) -> tuple[int | None, int]:
    """Return the cluster that the group ends with, and the number of messages.

    `counted` takes up how often each action was taken.
    """
    team, said = episode.team, episode.responses
    held: dict[str, Response | None] = {name: said.get(f"{name}@0") for name in team}
    previous: dict[str, int | None] = {}
    messages, everybody = sum(one is not None for one in held.values()), True
    for round_ in range(1, last_round(episode) + 1):
        if is_settled(held, rule(votes_of(held))) or not everybody:
            break
        prior = competences(episode.agents)
        limit = episode.options["max_rounds"]
        seen = observe(Situation(held, previous, prior, round_, limit))
        targets = {name: concession(held, name) for name in team}
        drawn = {name: said.get(f"{name}@{round_}") for name in team}
        masks = [[True, drawn[n] is not None, targets[n] is not None] for n in team]
        rows = for_team(router, team).decide([seen[name] for name in team], masks)
        moved = dict(held)
        by_id = {one["id"]: one for one in held.values() if one is not None}
        for name, row, mask in zip(team, rows, masks, strict=True):
            action = ACTIONS[int(np.argmax(behaviour(row, mask, 0.0)))]
            target = targets[name]
            moved[name] = after_move(
                action,
                held[name],
                drawn=drawn[name] if action == "REFINE" else None,
                target=by_id[target] if target else None,
            )
            messages += action == "REFINE"
            everybody &= action == "REFINE"
            if counted is not None:
                counted[action] += 1
        previous = {name: one["cluster"] if one else None for name, one in held.items()}
        held = moved
    return rule(votes_of(held)), messages


def vote_of_round(episode: Episode, round_: int, rule: ConsensusRule) -> int | None:
    """Return the cluster that the answers of a round elect."""
    held = {name: episode.responses.get(f"{name}@{round_}") for name in episode.team}
    return rule(votes_of(held))


@dataclass
class Fold:
    """What is learned on a part of the debates, and the others by number.

    Attributes:
        critic: How right a response is, by its looks.
        rules: What plays without a network, by name.
        fits: Routers, by the name of the method.
        held_out: Numbers of the debates to play.
    """

    critic: ProfileCritic
    rules: dict[str, Router]
    fits: dict[str, Fit]
    held_out: list[int]

    def routers(self) -> dict[str, tuple[Router, Calibration]]:
        """Return all that plays, each with the calibration that it knows."""
        found = {name: (router, Calibration({})) for name, router in self.rules.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # none has passed its gate yet
            for name, fit in self.fits.items():
                router = load_router(fit.folder)
                found[name] = router, router.calibration or Calibration({})
        return found


def configs(shared: Config, options: DebateOptions) -> dict[str, Config]:
    """Return the options of every fit, by the name of its method.

    Raises:
        ConfigurationError: A setting is no option of what a fit learns, or no value for it.
    """
    known = sorted(name.rstrip("_") for name in vars(shared).keys() - _APART)
    found = {learned_name(one): replace(shared, algorithm=one) for one in options.algorithms}
    first = learned_name(options.algorithms[0])
    for setting in options.settings:
        name, _, value = setting.partition("=")
        if name.replace("-", "_") not in known:
            names = ", ".join(known)
            raise ConfigurationError(f"--settings takes {names}, such as tau=0, got {setting!r}")
        try:
            changed = tyro.cli(Config, args=[f"--{name}", value], default=found[first])
        except SystemExit:  # the reason has been printed
            raise ConfigurationError(f"--settings {setting}: no value for it") from None
        changed.check()
        found[f"{first}, {setting}"] = changed
    return found


def make_fold(
    rest: Sequence[Episode],
    held_out: list[int],
    graded: Grader,
    options: DebateOptions,
    folder: Path,
    seed: int,
) -> Fold:
    """Learn from the debates of the other folds, which are written to `folder` for the fits."""
    critic = fit_profile(gather_looks(rest, graded))
    learned = [criticise(e, critic, "confidence") for e in rest]
    gains = fit_gains(make_groups(learned, graded), Calibration({}), options.cost)
    rules: dict[str, Router] = {
        WEIGHTED: make_router("always-persist"),
        "expected gain": ExpectedGainRouter(gains),
        "threshold, tuned": _tune(learned[:TUNED_ON], graded),
    }
    folder.mkdir()
    path = folder / "rest.jsonl"
    write_episodes(path, learned)
    shared = Config(
        traces=(path,),
        consensus="recorded",
        out=options.out / "fits",
        answer=options.answer,
        cost=options.cost,
        seed=seed,
        threads=1,
    )
    fits = {name: Fit(config) for name, config in configs(shared, options).items()}
    return Fold(critic, rules, fits, held_out)


def split(episodes: Sequence[Episode], options: DebateOptions) -> list[NDArray[Any]]:
    """Return the fold of every episode, ``[E]``, for each seed.

    At random, all episodes of a question are in one fold.

    Raises:
        ConfigurationError: The episodes are all of one kind, or some have no category.
    """
    if options.split == "random":
        questions = list(dict.fromkeys(e.question for e in episodes))
        places = []
        for seed in range(options.seeds):
            drawn = np.random.default_rng(seed).permutation(len(questions)) % options.folds
            fold = dict(zip(questions, drawn, strict=True))
            places.append(np.array([fold[e.question] for e in episodes]))
        return places
    if options.split == "category" and (without := sum(e.category is None for e in episodes)):
        raise ConfigurationError(
            f"--split category: {without} debates have no category. Import them with one"
        )
    kinds = [e.category if options.split == "category" else len(e.team) for e in episodes]
    names, place = np.unique(np.array(kinds), return_inverse=True)
    if len(names) < 2:
        raise ConfigurationError(
            f"--split {options.split}: the debates are all of one kind. Use --split random"
        )
    return [place] * options.seeds


def cross_validate(
    episodes: Sequence[Episode], graded: Grader, options: DebateOptions
) -> dict[str, Played]:
    """Return what every method gives on held-out questions."""
    with tempfile.TemporaryDirectory(prefix="debates-") as folder:
        folds = []
        for seed, places in enumerate(split(episodes, options)):
            for number in tqdm(range(places.max() + 1), desc=f"rules, split {seed}"):
                held_out = np.flatnonzero(places == number).tolist()
                asked = {episodes[n].question for n in held_out}
                rest = [e for e in episodes if e.question not in asked]
                place = Path(folder, f"{seed}-{number}")
                folds.append(make_fold(rest, held_out, graded, options, place, seed))
        must_fit([fit for fold in folds for fit in fold.fits.values()], options.jobs)
        return play_folds(episodes, folds, graded)


def play_folds(
    episodes: Sequence[Episode], folds: Sequence[Fold], graded: Grader
) -> dict[str, Played]:
    """Return what every method gives on the held-out debates of each fold."""
    found: defaultdict[str, Played] = defaultdict(Played)
    right = [[graded(a, str(e.reference)) for a in e.representatives] for e in episodes]

    questions = {q: n for n, q in enumerate(dict.fromkeys(e.question for e in episodes))}

    def note(name: str, number: int, cluster: int | None, messages: int) -> None:
        won = cluster is not None and right[number][cluster]
        found[name].results.append((won, messages, questions[episodes[number].question]))

    for fold in tqdm(folds, desc="held-out folds"):
        routers = fold.routers()
        for number in fold.held_out:
            episode = episodes[number]
            last, spoken = last_round(episode), len(episode.responses)
            note(FIRST, number, vote_of_round(episode, 0, majority), len(episode.team))
            note(RECORDED, number, vote_of_round(episode, last, majority), spoken)
            judged = criticise(episode, fold.critic, "confidence")
            for name, (router, calibration) in routers.items():
                seen = recalibrate(judged, calibration)
                actions = found[name].actions
                note(name, number, *play(seen, router, confidence_weighted, actions))
            clusters = [r["cluster"] for r in episode.responses.values()]
            best = next((c for c in clusters if c is not None and right[number][c]), None)
            note("any answer right (a bound)", number, best, spoken)
    return found


def _tune(learned: Sequence[Episode], graded: Grader) -> ThresholdRouter:
    """Return the threshold rule that answers most of these questions."""

    def accuracy(router: ThresholdRouter) -> float:
        won = [play(e, router, confidence_weighted)[0] for e in learned]
        return sum(
            w is not None and graded(e.representatives[w], str(e.reference))
            for w, e in zip(won, learned, strict=True)
        )

    return max((ThresholdRouter(bar, gap) for bar in BARS for gap in GAPS), key=accuracy)


def format_results(found: Mapping[str, Played], count: int, learned: str) -> str:
    """Return the table. Each method is compared with the two votes, and with a learned one."""
    columns = {name: np.array(played.results, float).T for name, played in found.items()}
    against = {name: columns[name][0] for name in (FIRST, RECORDED, learned)}
    rows = []
    for name, played in found.items():
        right, messages, question = columns[name]
        total = played.actions.total()
        shares = [f"{played.actions[a] / total:.0%}" if total else "–" for a in ACTIONS]
        rows.append(
            [
                name,
                f"{right.mean():.4f}",
                *(
                    "=" if name == other else mean_interval(right - theirs, question).short()
                    for other, theirs in against.items()
                ),
                f"{messages.mean():.2f}",
                *shares,
            ]
        )
    others = ["the first vote", "the debate", learned]
    heading = ["method", "right", *[f"against {other}" for other in others], "messages"]
    note = f"{count} debates. Intervals are 95 %, over questions."
    return f"{note}\n\n{table([*heading, *ACTIONS], rows)}\n"


def main(options: DebateOptions) -> str:
    """Run the cross-validation, and return its table."""
    options.check()
    check_answer(options.traces, options.answer)
    graded = remembering_grader(options.answer)
    episodes = [
        episode
        for path in options.traces
        for episode in TraceReader(path)
        if episode.reference is not None and len(episode.team) > 1
    ]
    if not any(last_round(episode) for episode in episodes):
        raise ConfigurationError("the traces hold no debate with a reference")
    if options.split == "random":
        check_questions(len({episode.question for episode in episodes}), options.folds)
    found = cross_validate(episodes, graded, options)
    text = format_results(found, len(episodes), learned_name(options.algorithms[0]))
    write_results(options.out, text)
    return text


if __name__ == "__main__":
    run_command(main, DebateOptions, __doc__)
