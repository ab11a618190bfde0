"""Which answer to give: rules compared on the same recorded answers, and advice on what to run.

Every rule that has something to learn learns it from training questions alone. The advice is taken
on the training questions, too, where each question is answered by what was learned from others
(cross-fitting). So the figures on the held-out questions, which decide nothing, are honest.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.consensus import LogOdds, Vote, confidence_weighted, majority
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import LearnedConsensus
from mpdf_langgraph.recruiting import Stand, overturn_probability
from mpdf_langgraph.risk import count_errors
from training.learn.ballots import Ballots, shuffle_into_folds, thin_out
from training.learn.consensus_fit import choose_strength, fit_consensus, measure_agreement
from training.learn.measures import Interval, mean_interval, quality, share_interval
from training.learn.origins import Origins

Array = NDArray[np.float64]

SINGLE, LEARNED, RECORDED = "best single agent", "learned consensus", "debate as recorded"
FOLDS = 5
BARS = 41
"""Bars of risk control: so many quantiles of the probabilities of training questions."""
MOST_STATES = 4000
"""States to learn from, at most: more take minutes and change no weight by much."""
LEAST_TO_ADVISE = 30
"""Held-out questions that an advice needs."""
CONFIDENT = 0.95
"""Adaptive consistency stops once the leading answer is so probably the majority's."""


@dataclass(frozen=True)
class Choice:
    """What a rule gives on E states.

    Attributes:
        right: The answer chosen is right, ``[E]``.
        calls: Answers that were asked for, ``[E]``.
        probability: P(right) by the rule, NaN where it gives none, ``[E]``.
        every: Of every answer, also those not chosen: P(right) and whether it is, ``[A, 2]``.
    """

    right: Array
    calls: Array
    probability: Array
    every: Array

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of P(right) of every answer. NaN if there are none."""
        return quality(self.every[:, 0], self.every[:, 1])["ece"]


Answered = tuple[int | None, int, Mapping[int, float]]
"""The cluster chosen, the calls that were made, and P(right) by cluster, where it is known."""
Chooser = Callable[[Ballots, int], Answered]


def measure_records(ballots: Ballots) -> dict[str, float]:
    """Return each agent's share of right proposals, the best first. No answer is wrong."""
    first = ballots.select(ballots.first)
    there = first.author >= 0
    rights = np.bincount(first.author[there], first.right[there], len(ballots.agents))
    asked = np.maximum(1, first.member.sum(0))
    shares = dict(zip(ballots.agents, (rights / asked).tolist(), strict=True))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def fit_choosers(ballots: Ballots, strength: float, seed: int = 0) -> dict[str, Chooser]:
    """Return the rules that are compared, the simplest first."""
    record = measure_records(ballots)
    place = {name: i for i, name in enumerate(record)}
    best = next(iter(record), "")

    def in_order(votes: list[Vote]) -> list[Vote]:
        # A tie goes to who stands first: the better record.
        return sorted((v._replace(confidence=None) for v in votes), key=lambda v: place[v.agent])

    def ask_best(asked: Ballots, state: int) -> Answered:
        own = [vote.cluster for vote in asked.votes(state) if vote.agent == best]
        return (own[0] if own else None), 1, {}

    def vote(asked: Ballots, state: int) -> Answered:
        votes = asked.votes(state)
        return majority(in_order(votes)), len(record), {}

    def vote_by_record(asked: Ballots, state: int) -> Answered:
        sums: dict[int | None, float] = {}
        for one in in_order(asked.votes(state)):
            sums[one.cluster] = sums.get(one.cluster, 0.0) + record[one.agent]
        return max(sums, key=sums.__getitem__, default=None), len(record), {}

    def vote_by_confidence(asked: Ballots, state: int) -> Answered:
        return confidence_weighted(asked.votes(state)), len(record), {}

    def ask_until_clear(asked: Ballots, state: int) -> Answered:
        counts: dict[int | None, int] = {}
        given = {one.agent: one.cluster for one in asked.votes(state)}
        calls = 0
        for name in record:
            calls += 1
            if name in given:
                counts[given[name]] = counts.get(given[name], 0) + 1
            first, second = [*sorted(counts.values(), reverse=True), 0, 0][:2]
            if 1 - overturn_probability(Stand(first, second)) > CONFIDENT:
                break
        return max(counts, key=counts.__getitem__, default=None), calls, {}

    choosers: dict[str, Chooser] = {
        SINGLE: ask_best,
        "majority": vote,
        "vote by record": vote_by_record,
        "adaptive consistency": ask_until_clear,
    }
    if not np.isnan(ballots.confidence[ballots.author >= 0]).all():
        log_odds = LogOdds(measure_agreement(ballots))
        choosers["vote by confidence"] = vote_by_confidence
        choosers["log-odds"] = _probable(lambda _: log_odds, len(record))
    fitted = fit_consensus(ballots, seed, strength)
    return {**choosers, LEARNED: _probable(fitted.of, len(record))}


def _probable(rule_of: Callable[[str | None], Any], calls: int = 0) -> Chooser:
    """Return the choice by a rule that gives probabilities, made for a category of questions."""

    def choose(asked: Ballots, state: int) -> Answered:
        rule, votes = rule_of(asked.category_of(state)), asked.votes(state)
        return rule(votes), calls, rule.probabilities(votes)

    return choose


def choose(choosers: Mapping[str, Chooser], ballots: Ballots) -> dict[str, Choice]:
    """Let every rule answer each state."""
    found = {}
    for name, chooser in choosers.items():
        rows, every = [], []
        for state in range(len(ballots)):
            cluster, calls, told = chooser(ballots, state)
            known = math.nan if cluster is None else told.get(cluster, math.nan)
            rows.append((ballots.is_right(state, cluster), calls, known))
            every += [(p, ballots.is_right(state, c)) for c, p in told.items()]
        right, asked, told_of = np.array(rows, float).reshape(-1, 3).T
        found[name] = Choice(right, asked, told_of, np.array(every, float).reshape(-1, 2))
    return found


def join_choices(parts: Sequence[Choice], places: Sequence[NDArray[Any]], size: int) -> Choice:
    """Return the choices of parts of the states as those of all states, `size` in number.

    `places` tell where the states of each part stand among all.
    """
    whole = np.full((3, size), np.nan)
    for part, place in zip(parts, places, strict=True):
        whole[:, place] = part.right, part.calls, part.probability
    right, calls, probability = whole
    return Choice(right, calls, probability, np.concatenate([part.every for part in parts]))


def shared_rules(found: Sequence[Mapping[str, Choice]]) -> list[str]:
    """Return the names of the rules that all of these have, the simplest first.

    A rule that needs confidences is missing where nothing that was learned from has one.
    """
    return [name for name in found[0] if all(name in one for one in found)]


def join_folds(
    parts: Sequence[Mapping[str, Choice]], places: Sequence[NDArray[Any]], size: int
) -> dict[str, Choice]:
    """Return the choices of all folds, by rule. A rule that a fold lacks is left out."""
    return {
        name: join_choices([part[name] for part in parts], places, size)
        for name in shared_rules(parts)
    }


def cross_fit(
    ballots: Ballots, strength: float, seed: int = 0
) -> tuple[dict[str, Choice], Interval]:
    """Answer every question by what was learned from the questions of the other folds.

    Return what the rules give on the proposals. And by how much the learned consensus is more often
    right than the recorded rule on what the teams held in the end.
    """
    folds = shuffle_into_folds(ballots, FOLDS, seed)
    asked, ended = ballots.select(ballots.first), ballots.select(ballots.last)
    gain = np.zeros(len(ended))
    parts, places = [], []
    for fold in range(FOLDS):
        choosers = fit_choosers(ballots.select(folds != fold), strength, seed)
        places.append(np.flatnonzero(folds[ballots.first] == fold))
        parts.append(choose(choosers, asked.select(places[-1])))
        here = folds[ballots.last] == fold
        final = choose({LEARNED: choosers[LEARNED]}, part := ended.select(here))[LEARNED]
        gain[here] = final.right - part.recorded
    return join_folds(parts, places, len(asked)), mean_interval(gain, ended.question)


@dataclass(frozen=True)
class Comparison:
    """What the rules give, and what to run.

    Attributes:
        consensus: Fitted on the training questions, with its risk curve of the held-out ones.
        best: Name of the best single agent, by its record on the training questions.
        chosen: Name of the rule to run, as the training questions have it.
        held_out: By rule, on the held-out questions.
        final_gain: By how much the learned consensus is more often right than the traces' own rule
            on what the teams held in the end: on the training questions, cross-fitted.
        question: Of each held-out state of proposals, ``[E]``.
        episode: Of each held-out state of proposals, ``[E]``.
        ends: The learned consensus on what the held-out teams held in the end.
        ends_question: Of each of these, ``[D]``.
    """

    consensus: LearnedConsensus
    best: str
    chosen: str
    held_out: Mapping[str, Choice]
    final_gain: Interval
    question: NDArray[np.int64]
    episode: NDArray[np.int64]
    ends: Choice
    ends_question: NDArray[np.int64]

    def difference(self, one: str, other: str) -> Interval:
        """Return the paired difference in accuracy of two rules, held out."""
        gap = self.held_out[one].right - self.held_out[other].right
        return mean_interval(gap, self.question)

    def advised_right(self) -> dict[int, float]:
        """Return whether the advised rule is right on the held-out questions, by episode."""
        right = self.held_out[self.chosen].right.tolist()
        return dict(zip(self.episode.tolist(), right, strict=True))

    def try_risk(self, risk: float) -> tuple[int, int]:
        """Return how many final answers are accepted at a risk, and how many of these are wrong.

        Each half of the held-out questions has the bar that the other half chose.
        """
        bars = [step.bar for step in self.consensus.risk.root]
        half = np.random.default_rng(0).permutation(self.ends_question.max(initial=0) + 1) % 2
        here, told, right = half[self.ends_question], self.ends.probability, self.ends.right > 0
        accepted = np.zeros(len(told), bool)
        for k in (0, 1):
            chose = here != k
            bar = count_errors(bars, told[chose].tolist(), right[chose].tolist()).bar(risk)
            if bar is not None:
                accepted |= (here == k) & (told >= bar)
        return int(accepted.sum()), int((accepted & ~right).sum())

    def advise(self, origins: Origins) -> str:
        """Return what to run, for traces that were made with this."""
        found = share_interval(self.held_out[self.chosen].right, self.question)
        few = ""
        if found.questions < LEAST_TO_ADVISE:
            few = (
                f"The held-out questions are too few to advise: {found.questions}, and "
                f"{LEAST_TO_ADVISE} are needed. What the training questions speak for: "
            )
        if self.chosen != RECORDED:
            how = f"ask agent {self.best} alone" if self.chosen == SINGLE else f"the {self.chosen}"
        elif origins.deployable:
            how = f"the whole debate, with the router {origins.routers[0]} and the traces' options"
        else:
            how = "a deliberation, but not by the traces' own policy"
        told = f"{few or 'Run: '}{how}"
        if found.questions:
            told += f" (accuracy {found.short('', 3)} on {found.questions} held-out questions"
            told += ", as recorded)" if self.chosen == RECORDED else ")"
        if self.chosen == RECORDED and not origins.deployable:
            made = ", ".join(origins.routers) or "unknown"
            told += (
                f". Deliberating pays. The traces' router ({made}) is none to deploy: "
                "training/evaluate.py tells whether to run the fitted router or the threshold "
                "router"
            )
        return told + "."


def compare(training: Ballots, held_out: Ballots, seed: int = 0) -> Comparison:
    """Fit all rules on the training questions, and compare them. Confidences are calibrated.

    Raises:
        ConfigurationError: No training question has an answer.
    """
    if not (training.author[training.first] >= 0).any():
        held = len(np.unique(held_out.question))
        questions = len(np.unique(training.question)) + held
        raise ConfigurationError(
            f"{questions} questions leave none with an answer to learn from and {held} to report: "
            "collect more traces, in which agents disagree"
        )
    training = thin_out(training, MOST_STATES, seed)
    strength = choose_strength(training, seed)
    found, final_gain = cross_fit(training, strength, seed)
    asked = held_out.select(held_out.first)
    results = choose(fit_choosers(training, strength, seed), asked)
    consensus = fit_consensus(training, seed, strength)
    if training.refined.any():  # else nobody debated
        found[RECORDED] = _as_recorded(training)
        results[RECORDED] = _as_recorded(held_out)
    bars = np.unique(np.floor(find_bars(found[LEARNED].probability) * 1e6) / 1e6)
    final = choose({LEARNED: _probable(consensus.of)}, held_out.select(held_out.last))[LEARNED]
    curve = count_errors(bars.tolist(), final.probability.tolist(), (final.right > 0).tolist())
    return Comparison(
        consensus=consensus.model_copy(update={"risk": curve}),
        best=next(iter(measure_records(training))),
        chosen=choose_rule(found, training.question[training.first]),
        held_out=results,
        final_gain=final_gain,
        question=asked.question,
        episode=asked.episode,
        ends=final,
        ends_question=held_out.question[held_out.last],
    )


def find_bars(probability: Array) -> Array:
    """Return the bars of risk control: quantiles of the probabilities that are known.

    A team without an answer has none. Where no team has an answer there is no bar.
    """
    known = probability[~np.isnan(probability)]
    return np.quantile(known, np.linspace(0, 1, BARS)) if len(known) else known


def _as_recorded(ballots: Ballots) -> Choice:
    """Return what the recorded debates came to, for each state of proposals."""
    ends = dict(zip(ballots.episode[ballots.last], ballots.recorded[ballots.last], strict=True))
    right = np.array([ends.get(episode, False) for episode in ballots.episode[ballots.first]])
    nothing = np.full(len(right), np.nan)
    return Choice(right.astype(float), nothing, nothing, np.zeros((0, 2)))


def choose_rule(found: Mapping[str, Choice], question: NDArray[np.int64]) -> str:
    """Return the rule to run, of those found (the simplest first).

    One agent is asked alone, unless a rule that asks the team is surely better: with the lower 95 %
    bound of the difference above 0. Among these the most accurate counts, the simplest at a tie. A
    debate has to be surely better than that one, too.
    """

    def is_surely_better(one: str, other: str) -> bool:
        return mean_interval(found[one].right - found[other].right, question).low > 0

    team = [name for name in found if name not in (SINGLE, RECORDED)]
    best = max(team, key=lambda name: round(float(found[name].right.mean()), 9))
    chosen = best if is_surely_better(best, SINGLE) else SINGLE
    if RECORDED in found and is_surely_better(RECORDED, chosen):
        return RECORDED
    return chosen
