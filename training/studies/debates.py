"""What would a policy have made of recorded debates? Cross-validation on their real outcomes.

    python -m training.studies.debates --traces traces/ --out runs/debates

The traces are debates (`collect.py --import` of a table with rounds). The questions are split into
folds, several times. For each fold everything is learned from the other folds: the profile critic,
the rates of the expected-gain rule, and the router of each algorithm. Then these play the held-out
debates. A REFINE gives what the agent really said in that round. An agent that nobody asked again
cannot refine. What an agent said in the second round was said to agents that had all refined, so a
policy may refine in it only if everybody has refined in the first.

Messages are proposals and refined answers.
"""

import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mpdf_langgraph import MPDFError, TraceReader, load_router
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
from training.collect.team import answer_schema, grader
from training.command import StudyOptions, check_least, run_command, write_results
from training.learn.dataset import make_groups
from training.learn.display import table
from training.learn.fit_config import Algorithm, Config
from training.learn.gains import fit_gains
from training.learn.measures import mean_interval
from training.learn.profile_fit import criticise, fit_profile, gather_looks
from training.learn.recalibrate import recalibrate
from training.learn.rewards import Grader
from training.studies.fits import Fit, run_fits

BARS, GAPS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9), (0.0, 0.1)
TUNED_ON = 600
"""Debates that the threshold rule is tuned on. More take long and change nothing."""
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
    jobs: int = 1
    """Fits side by side."""

    def check(self) -> None:
        """Raise `ConfigurationError` for options that cannot work."""
        super().check()
        check_least(self, jobs=1)


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
        fits: Routers, by algorithm.
        held_out: Numbers of the debates to play.
    """

    critic: ProfileCritic
    rules: dict[str, Router]
    fits: dict[Algorithm, Fit]
    held_out: list[int]

    def routers(self) -> dict[str, tuple[Router, Calibration]]:
        """Return all that plays, each with the calibration that it knows."""
        found = {name: (router, Calibration({})) for name, router in self.rules.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # none has passed its gate yet
            for algorithm, fit in self.fits.items():
                router = load_router(fit.folder)
                found[learned_name(algorithm)] = router, router.calibration or Calibration({})
        return found


def learned_name(algorithm: Algorithm) -> str:
    """Return the method's name in the table."""
    return f"learned, {'SFT alone' if algorithm == 'none' else algorithm}"


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
    learned = [criticise(e, critic, "confidence", confidence_weighted) for e in rest]
    gains = fit_gains(make_groups(learned, graded), Calibration({}), options.cost)
    rules: dict[str, Router] = {
        WEIGHTED: make_router("always-persist"),
        "expected gain": ExpectedGainRouter(gains),
        "threshold, tuned": _tune(learned[:TUNED_ON], graded),
    }
    folder.mkdir()
    path = folder / "rest.jsonl"
    path.write_bytes(b"".join(e.to_json().rstrip() + b"\n" for e in learned))
    shared = Config(
        traces=(path,),
        consensus="recorded",
        out=options.out / "fits",
        answer=options.answer,
        cost=options.cost,
        seed=seed,
        threads=1,
    )
    fits = {one: Fit(replace(shared, algorithm=one)) for one in options.algorithms}
    return Fold(critic, rules, fits, held_out)


def cross_validate(
    episodes: Sequence[Episode], graded: Grader, options: DebateOptions
) -> dict[str, Played]:
    """Return what every method gives on held-out questions."""
    with tempfile.TemporaryDirectory(prefix="debates-") as folder:
        folds = []
        for seed in range(options.seeds):
            places = np.random.default_rng(seed).permutation(len(episodes)) % options.folds
            for number in tqdm(range(options.folds), desc=f"rules, split {seed}"):
                rest = [e for e, place in zip(episodes, places, strict=True) if place != number]
                held_out = np.flatnonzero(places == number).tolist()
                place = Path(folder, f"{seed}-{number}")
                folds.append(make_fold(rest, held_out, graded, options, place, seed))
        failed = run_fits([fit for fold in folds for fit in fold.fits.values()], options.jobs)
        if failed:
            raise MPDFError(f"a fit failed: {next(iter(failed.values()))}")
        return play_folds(episodes, folds, graded)


def play_folds(
    episodes: Sequence[Episode], folds: Sequence[Fold], graded: Grader
) -> dict[str, Played]:
    """Return what every method gives on the held-out debates of each fold."""
    found: defaultdict[str, Played] = defaultdict(Played)
    right = [[graded(a, str(e.reference)) for a in e.representatives] for e in episodes]

    def note(name: str, number: int, cluster: int | None, messages: int) -> None:
        won = cluster is not None and right[number][cluster]
        found[name].results.append((won, messages, number))

    for fold in tqdm(folds, desc="held-out folds"):
        routers = fold.routers()
        for number in fold.held_out:
            episode = episodes[number]
            last, spoken = last_round(episode), len(episode.responses)
            note(FIRST, number, vote_of_round(episode, 0, majority), len(episode.team))
            note(RECORDED, number, vote_of_round(episode, last, majority), spoken)
            judged = criticise(episode, fold.critic, "confidence", confidence_weighted)
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
    known = cache(graded)

    def accuracy(router: ThresholdRouter) -> float:
        won = [play(e, router, confidence_weighted)[0] for e in learned]
        return sum(
            w is not None and known(e.representatives[w], str(e.reference))
            for w, e in zip(won, learned, strict=True)
        )

    return max((ThresholdRouter(bar, gap) for bar in BARS for gap in GAPS), key=accuracy)


def format_results(found: Mapping[str, Played], count: int) -> str:
    """Return the table."""
    columns = {name: np.array(played.results, float).T for name, played in found.items()}
    first, recorded = columns[FIRST][0], columns[RECORDED][0]
    rows = []
    for name, played in found.items():
        right, messages, question = columns[name]
        total = played.actions.total()
        shares = [f"{played.actions[a] / total:.0%}" if total else "–" for a in ACTIONS]
        rows.append(
            [
                name,
                f"{right.mean():.4f}",
                "=" if name == FIRST else mean_interval(right - first, question).short(),
                "=" if name == RECORDED else mean_interval(right - recorded, question).short(),
                f"{messages.mean():.2f}",
                *shares,
            ]
        )
    heading = ["method", "right", "against the first vote", "against the debate", "messages"]
    note = f"{count} debates. Intervals are 95 %, over questions."
    return f"{note}\n\n{table([*heading, *ACTIONS], rows)}\n"


def main(options: DebateOptions) -> str:
    """Run the cross-validation, and return its table."""
    options.check()
    graded: Any = grader(answer_schema(options.answer))
    episodes = [
        episode
        for path in options.traces
        for episode in TraceReader(path)
        if episode.reference is not None and len(episode.team) > 1
    ]
    if not any(last_round(episode) for episode in episodes):
        raise ConfigurationError("the traces hold no debate with a reference")
    text = format_results(cross_validate(episodes, cache(graded), options), len(episodes))
    write_results(options.out, text)
    return text


if __name__ == "__main__":
    run_command(main, DebateOptions, __doc__)
