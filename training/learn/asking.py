"""Measures what asking another agent is worth, on graded traces in which everybody was asked.

Asking is a finite problem of optimal stopping: at every number of agents asked, one may stop and
take the consensus of those, or ask the next wave. The value of going on is computed backwards from
the whole team, by averaging over the questions whose answers stood alike (fitted value iteration on
a table). A stand that few questions show is drawn to the mean of its stage. The order of the agents
is improved by swapping two of them, as long as that raises the value.

Where the consensus gives P(right), that number replaces the table, for the order found. Asking on
pays where the doubt 1 - P(right) is more than a multiple of the next wave's price. The multiple is
the only number that is fitted, so it holds on other questions.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mpdf_langgraph.calibration import log_odds
from mpdf_langgraph.consensus import ConsensusRule, ProbabilisticRule, count_votes
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import rule_for
from mpdf_langgraph.profile_critic import ProfileCritic
from mpdf_langgraph.recruiting import AskingValues, Stage, leading_confidence, stand_of
from mpdf_langgraph.state import Response, charged_tokens
from mpdf_langgraph.traces.records import Episode
from training.learn.ballots import make_ballots
from training.learn.consensus_fit import fit_consensus
from training.learn.display import table
from training.learn.profile_fit import criticise
from training.learn.rewards import Grader

Array = NDArray[np.float64]

PRETENDED = 5.0
"""Questions at the stage's mean that every stand is given beside its own."""
RIDGE = 20.0
"""Draws the slope of the confidence to 0. It acts like this much more spread of the log-odds
without any gain."""
DOUBTS = 201
"""How many doubts are tried. They are quantiles of the doubts in the traces."""
UNANSWERED = "0-0"
"""The stand of a question to which nobody has given an answer."""
LEAST = 100
"""Questions from which the values are compared with the best agent alone."""
UNREPORTED_TOKENS = 1000.0
"""Tokens of every proposal where the traces report none: the price of 1,000 is that of a call."""


class Part(NamedTuple):
    """What a part of the team would answer.

    Attributes:
        stand: How its answers stand, as in `Stage`, ``[E]`` text.
        right: The consensus is right, ``[E]`` bool.
        sure: Log-odds of the confidence in it, ``[E]``. NaN: it is not known.
    """

    stand: NDArray[Any]
    right: NDArray[Any]
    sure: Array

    def select(self, chosen: list[int]) -> "Part":
        """Return some of the questions."""
        return Part(*(column[chosen] for column in self))


@dataclass
class Asked:
    """The proposals of a team, question by question, and what any part of it would answer.

    Attributes:
        team: Names in the team's order.
        episodes: The records, E of them.
        right: By cluster, of every episode, whether the answer is right.
        rule: How votes are counted.
        tokens: Mean tokens of a proposal and of the verdict on it, by agent.
        plain_tokens: The same without verdicts, which a plain majority does not read.
        left_out: Episodes of another team, without a reference, or in which not all were asked.
    """

    team: list[str]
    episodes: list[Episode]
    right: list[list[bool]]
    rule: ConsensusRule
    tokens: dict[str, float]
    plain_tokens: dict[str, float]
    left_out: int = 0
    _parts: dict[frozenset[str], Part] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def question(self) -> NDArray[np.int64]:
        """Number of each episode's question, ``[E]``. Episodes of one question share it."""
        number: dict[str, int] = {}
        texts = [episode.question for episode in self.episodes]
        return np.array([number.setdefault(text, len(number)) for text in texts], np.int64)

    def select(self, places: Iterable[int]) -> "Asked":
        """Return some of the episodes."""
        chosen = list(places)
        parts = {key: part.select(chosen) for key, part in self._parts.items()}
        episodes, right = [self.episodes[i] for i in chosen], [self.right[i] for i in chosen]
        return replace(self, episodes=episodes, right=right, _parts=parts)

    def judged_by(self, critic: ProfileCritic) -> "Asked":
        """Return the same with another critic's confidences."""
        episodes = [criticise(episode, critic) for episode in self.episodes]
        return replace(self, episodes=episodes, _parts={})

    def decided_by(self, rule: ConsensusRule) -> "Asked":
        """Return the same with another consensus rule."""
        return replace(self, rule=rule, _parts={})

    def of(self, names: Iterable[str]) -> Part:
        """Return what some of the agents would answer."""
        part = frozenset(names)
        if part not in self._parts:
            held = [
                {n: e.responses.get(f"{n}@0") for n in self.team if n in part}
                for e in self.episodes
            ]
            stands = ["{}-{}".format(*stand_of(one)) for one in held]
            tallies = [
                count_votes(one, self.rule, e.representatives)
                for one, e in zip(held, self.episodes, strict=True)
            ]
            right = [
                tally["cluster"] is not None and verdicts[tally["cluster"]]
                for tally, verdicts in zip(tallies, self.right, strict=True)
            ]
            known = [leading_confidence(*pair) for pair in zip(held, tallies, strict=True)]
            sure = [np.nan if c is None else log_odds(c) for c in known]
            self._parts[part] = Part(
                np.array(stands, str), np.array(right, bool), np.array(sure, float)
            )
        return self._parts[part]


def learn_rule(asked: Asked, grader: Grader) -> ConsensusRule:
    """Fit a learned consensus on the proposals of the team."""
    parts = [proposals_of(episode, asked.team) for episode in asked.episodes]
    return rule_for(fit_consensus(make_ballots(parts, grader), strength=10.0), None)


def proposals_of(episode: Episode, team: Collection[str]) -> Episode:
    """Return an episode as if only these agents had been asked, and only to propose."""
    agents = [agent for agent in episode.agents if agent["name"] in team]
    told = {i: r for i, r in episode.responses.items() if r["agent"] in team and not r["round"]}
    changed = {"agents": agents, "responses": told, "turns": [], "tallies": episode.tallies[:1]}
    return episode.model_copy(update=changed)


def gather(
    episodes: Iterable[Episode],
    grader: Grader,
    rule: ConsensusRule,
    team: Sequence[str] = (),
) -> Asked:
    """Return the proposals of a team, by default of the team that most episodes have.

    Episodes in which the router asked only some of the agents say nothing of the others, and are
    left out.

    Raises:
        ConfigurationError: No episode is left.
    """
    usable: list[Episode] = []
    left_out = 0
    for episode in episodes:
        if episode.reference is None or episode.recruits or episode.interventions:
            left_out += 1
        else:
            usable.append(episode)
    teams = Counter(tuple(e.team) for e in usable)
    chosen = list(team) or [name for found, _ in teams.most_common(1) for name in found]
    kept = [e for e in usable if (set(chosen) <= set(e.team) if team else e.team == chosen)]
    left_out += len(usable) - len(kept)
    if not kept or len(chosen) < 2:
        raise ConfigurationError(
            f"no episode with a reference asked all of {', '.join(chosen) or 'a team'}"
        )
    right = [[grader(a, str(e.reference)) for a in e.representatives] for e in kept]
    drawn = {n: [e.responses[i] for e in kept if (i := f"{n}@0") in e.responses] for n in chosen}

    def mean_tokens(*, judged: bool) -> dict[str, float]:
        spent = {name: [_tokens(r, judged=judged) for r in those] for name, those in drawn.items()}
        return {name: float(np.mean(those or [0])) for name, those in spent.items()}

    tokens, plain = mean_tokens(judged=True), mean_tokens(judged=False)
    if not any(tokens.values()):
        tokens = plain = dict.fromkeys(chosen, UNREPORTED_TOKENS)
    return Asked(chosen, kept, right, rule, tokens, plain, left_out)


def _tokens(response: Response, *, judged: bool) -> int:
    """Return the tokens of a response, and if it is judged, those of the verdict on it."""
    critique = response["critique"] if judged else None
    spent = charged_tokens(response["usage"])
    return spent + (charged_tokens(critique["usage"]) if critique else 0)


def fit_asking(
    asked: Asked,
    *,
    prices: Mapping[str, float] | None = None,
    cost: float,
    wave: int = 1,
    consensus: str,
    check: bool = True,
) -> AskingValues:
    """Compute the values of asking on.

    With waves of one agent and enough questions, the values are also computed on each half of the
    questions and tried on the other. If asking on does not pay there, they say to ask the best
    agent alone.

    Args:
        asked: The proposals.
        prices: Price of a token, by agent. 1 for the others.
        cost: Price of 1,000 tokens, in accuracy.
        wave: Agents asked at a time.
        consensus: Name of the rule, for the file.
        check: Compare with the best agent alone, by halves of the questions.
    """
    price = {name: float((prices or {}).get(name, 1.0)) for name in asked.team}
    charge = {name: cost * price[name] * asked.tokens[name] / 1000 for name in asked.team}
    alone = {n: float(asked.of([n]).right.mean()) - charge[n] for n in asked.team}
    by_worth = sorted(asked.team, key=lambda n: -alone[n])
    best, stages = _best_order(asked, by_worth, charge, wave)
    held_out = single = max(alone.values())
    if check and wave == 1 and len(asked) >= LEAST:
        held_out = _held_out_worth(asked, price, cost, consensus, charge)
    if held_out < single:
        best = by_worth
        first = asked.of(best[:1])
        gains = dict.fromkeys(sorted(set(first.stand.tolist())), held_out - single)
        _, those = _stages(asked, best, charge, wave)
        stage = those["1"].model_copy(update={"gains": gains, "centre": {}, "slope": 0.0})
        stages = {"1": stage}
    values = AskingValues(
        order=best,
        prices=price,
        tokens=asked.tokens,
        cost=cost,
        wave=wave,
        consensus=consensus,
        stages=stages,
    )
    if held_out >= single and isinstance(asked.rule, ProbabilisticRule):
        tried = by_doubt(asked, values)
        values = max(tried, key=lambda one: _utility(asked, one, charge), default=values)
    everyone = asked.of(asked.team).right
    measured = {
        "questions": len(asked),
        "left out": asked.left_out,
        "right alone": {n: float(asked.of([n]).right.mean()) for n in asked.team},
        "everyone": float(everyone.mean()),
        "value": _utility(asked, values, charge),
        "best alone": single,
        "held out": held_out,
    }
    return values.model_copy(update={"measured": measured})


def _best_order(
    asked: Asked, order: list[str], charge: Mapping[str, float], wave: int
) -> tuple[list[str], dict[str, Stage]]:
    """Return the best order that swapping two agents leads to, and its stages."""
    value, stages = _stages(asked, order, charge, wave)
    improved = True
    while improved:
        improved = False
        for i, j in combinations(range(len(order)), 2):
            swapped = list(order)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            reached, those = _stages(asked, swapped, charge, wave)
            if reached > value + 1e-9:
                order, value, stages, improved = swapped, reached, those, True
    return order, stages


def _held_out_worth(
    asked: Asked,
    prices: Mapping[str, float],
    cost: float,
    consensus: str,
    charge: Mapping[str, float],
) -> float:
    """Return what asking is worth by values that were fitted on the other half of the questions."""
    half = asked.question % 2
    halves = [asked.select(np.flatnonzero(half == k)) for k in (0, 1)]
    worth = [
        _utility(
            test,
            fit_asking(rest, prices=prices, cost=cost, consensus=consensus, check=False),
            charge,
        )
        for rest, test in (halves, halves[::-1])
    ]
    return float(np.mean(worth))


def by_doubt(asked: Asked, values: AskingValues) -> list[AskingValues]:
    """Return the values with what is enough in place of the stages, from asking few to many.

    Asking on pays where the doubt is more than a multiple of the next wave's price.
    """
    order, waves = values.order, [*pairwise(_counts(values.order, values.wave))]
    each = [sum(values.prices[n] * values.tokens[n] for n in order[i:j]) for i, j in waves]
    price = (np.array(each) + 1e-9) / (np.mean(each or [0]) + 1e-9)
    doubts = [expit(-asked.of(order[:i]).sure) / p for (i, _), p in zip(waves, price, strict=True)]
    known = np.concatenate([[], *(d[np.isfinite(d)] for d in doubts)])
    steps = [*np.quantile(known, np.linspace(1, 0, DOUBTS)), 0.0] if len(known) else []
    return [
        values.model_copy(
            update={
                "stages": {},
                "enough": {
                    str(i): max(0.0, 1 - float(step * p))
                    for (i, _), p in zip(waves, price, strict=True)
                },
            }
        )
        for step in steps
    ]


def _counts(order: Sequence[str], wave: int) -> list[int]:
    """Return how many agents were asked after each wave."""
    return [*range(wave, len(order), wave), len(order)]


def _utility(asked: Asked, values: AskingValues, charge: Mapping[str, float]) -> float:
    """Return the accuracy of asking by the values, the price taken off."""
    right, used = play_asking(asked, values)
    spent = np.cumsum([0.0, *(charge[name] for name in values.order)])[used]
    return float((right - spent).mean())


def _stages(
    asked: Asked, order: Sequence[str], charge: Mapping[str, float], wave: int
) -> tuple[float, dict[str, Stage]]:
    """Return the value of asking in an order, and the value of going on at every stage."""
    counts = _counts(order, wave)
    value = asked.of(order).right.astype(float)
    stages: dict[str, Stage] = {}
    for now, following in zip(counts[-2::-1], counts[:0:-1], strict=True):
        part = asked.of(order[:now])
        on = value - sum(charge[name] for name in order[now:following])
        gained = on - part.right
        keys, inverse, decisions = np.unique(part.stand, return_inverse=True, return_counts=True)
        total = np.bincount(inverse, gained)
        gains = (total + PRETENDED * gained.mean()) / (decisions + PRETENDED)
        shares = np.bincount(inverse, part.right) / decisions
        known = np.isfinite(part.sure)
        sure = np.where(known, part.sure, 0.0)
        count = np.bincount(inverse, known)
        centre = np.bincount(inverse, sure) / np.maximum(count, 1)
        # The slope comes from questions that stand alike, so that it tells more than the stand.
        apart = np.where(known, sure - centre[inverse], 0.0)
        spread = (apart**2).sum()
        slope = float((apart * (gained - (total / decisions)[inverse])).sum() / (spread + RIDGE))
        expected = gains[inverse] + slope * apart
        value = np.where((expected > 0) | (part.stand == UNANSWERED), on, part.right)
        stages[str(now)] = Stage(
            centre={k: float(c) for k, c, n in zip(keys.tolist(), centre, count, strict=True) if n},
            slope=slope,
            gains=dict(zip(keys.tolist(), gains.tolist(), strict=True)),
            decisions=dict(zip(keys.tolist(), decisions.tolist(), strict=True)),
            right=dict(zip(keys.tolist(), shares.tolist(), strict=True)),
        )
    first = sum(charge[name] for name in order[: counts[0]])
    return float(value.mean()) - first, stages


def play_asking(asked: Asked, values: AskingValues) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return whether the group is right, ``[E]`` bool, and how many agents it asks, ``[E]``."""
    order = values.order
    right = np.zeros(len(asked), bool)
    used = np.zeros(len(asked), int)
    going = np.ones(len(asked), bool)
    for count in _counts(order, values.wave):
        part = asked.of(order[:count])
        pays = _pays(values, str(count), part) & (count < len(order))
        ends = going & ~pays
        right[ends], used[ends] = part.right[ends], count
        going &= pays
    return right, used


def _pays(values: AskingValues, count: str, part: Part) -> NDArray[Any]:
    """Return whether asking on pays, ``[E]`` bool.

    It does where no question stood so, and where nobody has answered.
    """
    unanswered = np.asarray(part.stand == UNANSWERED)
    if count in values.enough:
        return np.asarray(unanswered | ~(expit(part.sure) >= values.enough[count]))
    stage = values.stages.get(count)
    if stage is None:
        return unanswered
    gains = [stage.gains.get(stand, 1.0) for stand in part.stand.tolist()]
    centre = [stage.centre.get(stand, np.nan) for stand in part.stand.tolist()]
    apart = np.nan_to_num(part.sure - np.array(centre))
    return np.asarray(unanswered | (np.array(gains) + stage.slope * apart > 0))


def describe_asking(values: AskingValues) -> str:
    """Return the values as Markdown: the order, and what is enough or what asking on gains."""
    measured = values.measured
    rows = [
        [
            number,
            stand,
            stage.decisions[stand],
            f"{stage.right[stand]:.3f}",
            f"{gain:+.4f}",
            "ask" if gain > 0 else "stop",
        ]
        for number, stage in sorted(values.stages.items(), key=lambda item: int(item[0]))
        for stand, gain in sorted(stage.gains.items())
    ]
    alone = ", ".join(f"{name} {measured['right alone'][name]:.3f}" for name in values.order)
    heading = ["asked", "votes", "questions", "right", "gain of asking on, price off", ""]
    stops = table(heading, rows)
    if values.enough:
        enough = [[number, f"{least:.3f}"] for number, least in values.enough.items()]
        stops = table(["asked", "P(right) that is enough"], enough)
    return (
        f"Measured on {measured['questions']} questions in which everybody was asked "
        f"({measured['left out']} others left out). Order, with the share that each gets right "
        f"alone: {alone}. Everybody: {measured['everyone']:.3f}.\n\n{stops}"
    )
