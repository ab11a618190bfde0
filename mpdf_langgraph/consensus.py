"""The group's answer from the agents' current responses."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.rounds import Held, confidence_of
from mpdf_langgraph.state import Consensus

#: Stands for a confidence that no critic gave, where none of the others has one either.
NO_CONFIDENCE = 1.0


class Vote(NamedTuple):
    """What one agent holds when the votes are counted.

    Attributes:
        cluster: Equivalence class of the answer. None: no valid answer, the agent abstains.
        confidence: The critic's confidence, None if it is unknown.
    """

    agent: str
    cluster: int | None
    confidence: float | None = None


#: From the votes of a team to the winning cluster, or None.
ConsensusRule = Callable[[list[Vote]], int | None]
ConsensusName = Literal["confidence", "majority"]
#: What `create_deliberation` takes for a consensus rule.
ConsensusLike = ConsensusName | ConsensusRule


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


_RULES: dict[str, ConsensusRule] = {"majority": majority, "confidence": confidence_weighted}


def make_rule(spec: Any) -> tuple[str, ConsensusRule]:
    """Return the name and the rule that `spec` stands for.

    Args:
        spec: ``"majority"``, ``"confidence"``, or a callable from votes to a cluster.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(spec, str) and spec in _RULES:
        return spec, _RULES[spec]
    if callable(spec) and not isinstance(spec, type):
        return getattr(spec, "__name__", "custom"), spec
    raise ConfigurationError(
        f"consensus={spec!r}: use 'majority', 'confidence', or a callable that takes a list of "
        "Vote and returns the winning cluster (or None)"
    )


def votes_of(held: Held) -> list[Vote]:
    """Return the votes of a team in its order, from the response that each agent holds."""
    return [
        Vote(agent, None)
        if response is None
        else Vote(agent, response["cluster"], confidence_of(response))
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
    """Return the consensus of a team.

    Args:
        held: The response each agent holds, in the order of the team. None abstains.
        rule: Picks the winning cluster.
        representatives: The answer that stands for each cluster.

    Raises:
        ConfigurationError: The rule returned a cluster that nobody voted for.
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
    if rule is not confidence_weighted:
        counted = dict.fromkeys(counted, 1.0)
    sums = [total for _, total in _rank_clusters(votes, counted)]
    response = strongest_response(held, winner)
    return Consensus(
        answer=None if winner is None else representatives[winner],
        cluster=winner,
        response=response,
        support=clusters.count(winner) / len(clusters) if winner is not None else 0.0,
        votes={vote.agent: vote.cluster for vote in votes},
        weights=counted,
        tie=len(sums) > 1 and sums[0] == sums[1],
    )


def leave_one_out(held: Held, agent: str, rule: ConsensusRule) -> int | None:
    """Return the winning cluster had `agent` abstained, ties included (for r_global).

    With three agents, this ties if the other two differ. Then the rule's tie rule decides.
    """
    return rule(votes_of({name: None if name == agent else r for name, r in held.items()}))


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
