"""The group's answer from the agents' current responses."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from mpdf_langgraph.calibration import log_odds
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.options import check_number
from mpdf_langgraph.rounds import Held, confidence_of
from mpdf_langgraph.state import Consensus

#: Stands for a confidence that no critic gave, where none of the others has one either.
NO_CONFIDENCE = 1.0
#: Probabilities whose ratio, or scores whose difference, is closer than this are equal.
ROUNDING = 1e-9
#: P(two wrong answers agree), measured on answers of real models to ten-choice questions.
AGREEMENT = 0.31


class Vote(NamedTuple):
    """What one agent holds when the votes are counted.

    Attributes:
        cluster: Equivalence class of the answer. None: no valid answer, the agent abstains.
        confidence: The critic's confidence, None if it is unknown.
        author: Who gave the response, if the agent has adopted it from a peer. None: itself.
        refined: It is a refined response, not a proposal.
    """

    agent: str
    cluster: int | None
    confidence: float | None = None
    author: str | None = None
    refined: bool = False


#: From the votes of a team to the winning cluster, or None.
ConsensusRule = Callable[[list[Vote]], int | None]
ConsensusName = Literal["confidence", "majority", "log-odds"]


@runtime_checkable
class ProbabilisticRule(Protocol):
    """A consensus rule that also says how probably each answer is right."""

    def __call__(self, votes: list[Vote]) -> int | None:
        """Return the most probable cluster."""
        ...

    def probabilities(self, votes: Sequence[Vote]) -> dict[int, float]:
        """Return P(right) by cluster. They sum to at most 1. Empty: nothing is known."""
        ...


def confidence_weights(votes: Iterable[Vote]) -> dict[str, float]:
    """Return each valid vote's confidence.

    An unknown confidence counts as the mean of the known ones. If none is known, each counts as
    1, so a failed critic turns the weighted vote into a plain vote.
    """
    valid = [vote for vote in votes if vote.cluster is not None]
    known = [vote.confidence for vote in valid if vote.confidence is not None]
    fill = math.fsum(known) / len(known) if known else NO_CONFIDENCE
    return {v.agent: fill if v.confidence is None else v.confidence for v in valid}


def _rank_clusters(votes: Sequence[Vote], weights: Mapping[str, float]) -> list[tuple[int, float]]:
    """Return (cluster, summed weight), the heaviest first. Ties keep the order of the team."""
    sums: dict[int, list[float]] = {}
    for vote in votes:
        if vote.cluster is not None:
            sums.setdefault(vote.cluster, []).append(weights[vote.agent])
    # fsum rounds once, so the order of the peers does not decide a tie.
    return sorted(((c, math.fsum(w)) for c, w in sums.items()), key=lambda item: -item[1])


def majority(votes: Sequence[Vote]) -> int | None:
    """Return the cluster with the most votes.

    Ties go to the larger sum of confidences, then to the cluster of the agent that stands
    first in the team.

    Example:
        >>> majority([Vote("a", 0), Vote("b", 1), Vote("c", 1)])
        1
    """
    counts = _rank_clusters(votes, {vote.agent: 1.0 for vote in votes})
    if not counts:
        return None
    leaders = {cluster for cluster, count in counts if count == counts[0][1]}
    held_by_leaders = [vote for vote in votes if vote.cluster in leaders]
    return _rank_clusters(held_by_leaders, confidence_weights(votes))[0][0]


def confidence_weighted(votes: Sequence[Vote]) -> int | None:
    """Return the cluster with the largest sum of confidences.

    Ties go to the cluster with more votes, then to the cluster of the agent that stands first
    in the team.

    Example:
        >>> confidence_weighted([Vote("a", 0, 0.9), Vote("b", 1, 0.3), Vote("c", 1, 0.4)])
        0
    """
    sums = _rank_clusters(votes, confidence_weights(votes))
    if not sums:
        return None
    if len(sums) == 1 or sums[0][1] > sums[1][1]:
        return sums[0][0]
    leaders = {cluster for cluster, total in sums if total == sums[0][1]}
    held_by_leaders = [vote for vote in votes if vote.cluster in leaders]
    return _rank_clusters(held_by_leaders, {vote.agent: 1.0 for vote in votes})[0][0]


def voices(votes: Iterable[Vote]) -> list[Vote]:
    """Return the valid votes, every response once.

    Agents that hold the response of one author speak with one voice. The surest counts.
    """
    found: dict[tuple[str, int], Vote] = {}
    for vote in votes:
        if vote.cluster is None:
            continue
        voice = vote._replace(agent=vote.author or vote.agent, author=None)
        known = found.setdefault((voice.agent, vote.cluster), voice)
        found[voice.agent, vote.cluster] = max(known, voice, key=_sureness)
    return list(found.values())


def _sureness(vote: Vote) -> tuple[float, bool]:
    return -1.0 if vote.confidence is None else vote.confidence, vote.refined


def most_probable(votes: Sequence[Vote], probabilities: Mapping[int, float]) -> int | None:
    """Return the cluster with the largest probability, the majority where none is known.

    Ties go to the cluster that `majority` elects among them.
    """
    best = max(probabilities.values(), default=0.0)
    leaders = {cluster for cluster, p in probabilities.items() if is_level(p, best)}
    return majority([vote for vote in votes if not leaders or vote.cluster in leaders])


def is_level(probability: float, best: float) -> bool:
    """Tell whether a probability ties with the best one: the difference may be rounding."""
    return probability >= best * (1 - ROUNDING)


def share_out(scores: Mapping[int, float], none: float) -> dict[int, float]:
    """Return the softmax of the clusters' scores and of that of "none of them is right"."""
    top = max([none, *scores.values()])
    total = math.fsum(math.exp(score - top) for score in [none, *scores.values()])
    return {cluster: math.exp(score - top) / total for cluster, score in scores.items()}


@dataclass(frozen=True)
class LogOdds:
    """The Bayes rule for calibrated confidences whose errors are independent.

    A vote with the confidence p has the weight ``ln(p / (s (1 - p)))``. The probability of an
    answer is the softmax of the summed weights, beside ``ln(1 / s)`` for "none of them is right".
    So a single vote is as probable as its confidence. One of .99 outweighs two of .6.

    Responses are counted once, also if several agents hold them. An unknown confidence counts as
    the mean of the known ones. If none is known, the majority decides and nothing is probable.

    Attributes:
        agreement: s = P(two wrong answers agree). 1 / s is the effective number of wrong answers.

    Example:
        >>> LogOdds()([Vote("a", 0, 0.99), Vote("b", 1, 0.6), Vote("c", 1, 0.6)])
        0
    """

    agreement: float = AGREEMENT

    def __post_init__(self) -> None:
        check_number("agreement", self.agreement, 0, 1, above=True)

    def __call__(self, votes: Sequence[Vote]) -> int | None:
        """Return the most probable cluster, as `most_probable` does."""
        return most_probable(votes, self.probabilities(votes))

    def weight(self, confidence: float) -> float:
        """Return what a vote of this confidence weighs. It is kept off 0 and 1."""
        return log_odds(confidence) + self.none

    @property
    def none(self) -> float:
        """Score of "none of the answers is right"."""
        return -math.log(self.agreement)

    def probabilities(self, votes: Sequence[Vote]) -> dict[int, float]:
        """See `ProbabilisticRule`."""
        heard = voices(votes)
        if all(voice.confidence is None for voice in heard):
            return {}
        known = [voice.confidence for voice in heard if voice.confidence is not None]
        fill = math.fsum(known) / len(known)
        weights: dict[int, list[float]] = {}
        for voice in heard:
            p = fill if voice.confidence is None else voice.confidence
            weights.setdefault(voice.cluster, []).append(self.weight(p))  # type: ignore[arg-type]
        scores = {cluster: math.fsum(those) for cluster, those in weights.items()}
        return share_out(scores, self.none)


_RULES: dict[str, ConsensusRule] = {
    "majority": majority,
    "confidence": confidence_weighted,
    "log-odds": LogOdds(),
}


def make_rule(spec: Any) -> tuple[str, ConsensusRule]:
    """Return the name and the rule that `spec` stands for.

    Args:
        spec: ``"majority"``, ``"confidence"``, ``"log-odds"``, or a callable from votes to a
            cluster.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(spec, str) and spec in _RULES:
        return spec, _RULES[spec]
    if isinstance(spec, LogOdds):
        return "log-odds", spec
    if callable(spec) and not isinstance(spec, type):
        return getattr(spec, "__name__", "custom"), spec
    raise ConfigurationError(
        f"consensus={spec!r:.80}: use 'majority', 'confidence', 'log-odds', 'learned' with a "
        "router that brings it, or a callable that takes a list of Vote and returns the winning "
        "cluster (or None)"
    )


def votes_of(held: Held) -> list[Vote]:
    """Return the votes of a team in its order, from the response that each agent holds."""
    return [
        Vote(agent, None)
        if response is None
        else Vote(
            agent,
            response["cluster"],
            confidence_of(response),
            None if response["agent"] == agent else response["agent"],
            response["round"] > 0,
        )
        for agent, response in held.items()
    ]


def strongest_response(held: Held, cluster: int | None) -> str | None:
    """Return the id of a cluster's response with the highest confidence, first in the team."""
    weights = confidence_weights(votes_of(held))
    members = [
        (weights[agent], response["id"])
        for agent, response in held.items()
        if response is not None and cluster is not None and response["cluster"] == cluster
    ]
    return max(members, key=lambda item: item[0])[1] if members else None


def count_votes(held: Held, rule: ConsensusRule, representatives: Sequence[str]) -> Consensus:
    """Return the consensus of a team by a rule.

    `representatives` are the answers that stand for each cluster.

    Raises:
        ConfigurationError: The rule returned a cluster that nobody voted for, or what is no
            probability.
    """
    votes = votes_of(held)
    clusters = [vote.cluster for vote in votes if vote.cluster is not None]
    winner = rule(list(votes))  # a rule may sort its list
    if winner is not None and winner not in clusters:
        raise ConfigurationError(
            f"the consensus rule returned {winner!r}, expected None or one of "
            f"{sorted(set(clusters))}"
        )
    if winner is not None:
        winner = clusters[clusters.index(winner)]  # a plain int, also if the rule gave numpy's
    counted = confidence_weights(votes)
    probable = rule.probabilities(votes) if isinstance(rule, ProbabilisticRule) else {}
    for cluster in {*clusters, *probable} if probable else ():
        check_number(f"the consensus rule's P({cluster})", probable.get(cluster), 0, 1)
    if probable:  # those who vote for an answer share its probability
        counted = {
            v.agent: probable[v.cluster] / clusters.count(v.cluster)
            for v in votes
            if v.cluster is not None
        }
    elif rule is not confidence_weighted:
        counted = dict.fromkeys(counted, 1.0)
    sums = sorted(probable.values(), reverse=True)
    if not probable:
        sums = [total for _, total in _rank_clusters(votes, counted)]
    # How a callable decides is not known.
    level = len(sums) > 1 and (is_level(sums[1], sums[0]) if probable else sums[0] == sums[1])
    is_known = rule in (majority, confidence_weighted) or isinstance(rule, ProbabilisticRule)
    response = strongest_response(held, winner)
    tally = Consensus(
        answer=None if winner is None else representatives[winner],
        cluster=winner,
        response=response,
        support=clusters.count(winner) / len(clusters) if winner is not None else 0.0,
        votes={vote.agent: vote.cluster for vote in votes},
        weights=counted,
        tie=is_known and level,
    )
    if probable and winner is not None:
        tally["probability"] = probable[winner]
    return tally


def is_decided(
    fixed: Sequence[Vote], open_votes: int, rule: object, *, criticised: bool = True
) -> bool:
    """Tell whether the winner stands, whatever `open_votes` further votes will be.

    An open vote may be for any answer, also for a new one, with any confidence from 0 to 1. So may
    be the confidence of a fixed vote that has none. The winner's least weight must be more than
    the most that any other answer can get. A tie decides nothing.

    Args:
        fixed: Votes that will not change.
        open_votes: How many others there will be, at most.
        rule: `majority` or `confidence_weighted`. Of any other rule nothing is known.
        criticised: There may be confidences. Else all votes weigh the same.

    Example:
        >>> sure = [Vote("a", 0, 0.9), Vote("b", 0, 0.8), Vote("c", 1, 0.4)]
        >>> is_decided(sure, 1, confidence_weighted), is_decided(sure, 2, confidence_weighted)
        (True, False)
    """
    if rule is not majority and rule is not confidence_weighted:
        return False
    counts = rule is majority or not criticised
    least: dict[int, list[float]] = {}
    most: dict[int, list[float]] = {}
    for vote in fixed:
        if vote.cluster is not None:
            known = 1.0 if counts else vote.confidence
            least.setdefault(vote.cluster, []).append(0.0 if known is None else known)
            most.setdefault(vote.cluster, []).append(1.0 if known is None else known)
    if not least:
        return False
    winner = max(least, key=lambda cluster: math.fsum(least[cluster]))
    rivals = [weights for cluster, weights in most.items() if cluster != winner]
    return all(
        math.fsum(least[winner]) > math.fsum([*weights, *[1.0] * open_votes])
        for weights in [*rivals, []]
    )


def concession(held: Held, agent: str) -> str | None:
    """Return the id of the response that `agent` would adopt by CONCEDE, None if there is none.

    It is chosen among the peers' answers that differ from its own: the cluster with the largest
    summed confidence, and in it the response with the highest confidence.
    """
    own = held[agent]
    others = {
        name: response
        for name, response in held.items()
        if name != agent
        and response is not None
        and response["cluster"] is not None
        and (own is None or response["cluster"] != own["cluster"])
    }
    return strongest_response(others, confidence_weighted(votes_of(others)))
