"""Observations: what an agent's policy may see, as a fixed vector of numbers.

The numbers are a pure function of the records, so training rebuilds them from a trace.
`FEATURE_VERSION` changes if their meaning changes, and a router refuses any other version. If the
graph has a calibration, "confidence" and "cluster_confidence" use the calibrated confidences.
Log-probabilities and the model's own verdict are always raw.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mpdf_langgraph.consensus import Vote, confidence_weights, votes_of
from mpdf_langgraph.state import Observation, Response

FEATURE_VERSION = 1

#: Name, range and meaning of every feature, in order. "Agent" is the one described.
FEATURES: dict[str, tuple[str, str]] = {
    "answer_valid": ("{0, 1}", "the agent holds a parsed answer"),
    "support": ("[0, 1]", "share of the other agents that hold an equivalent answer"),
    "plurality": ("{0, 1}", "no other answer has more votes than the agent's"),
    "margin": ("[-1, 1]", "votes for its answer minus those for the best other one, over N"),
    "cluster_confidence": ("[0, 1]", "its answer's share of the team's summed confidence"),
    "distinct_answers": ("[0, 1]", "distinct valid answers in the team, over N"),
    "agrees": ("{0, 1}", "its answer is equivalent to the observer's (1 for the observer)"),
    "steps": ("[0, 1]", "log(1 + reasoning steps) / log 101, capped"),
    "operators": ("[0, 1]", "log(1 + operators) / log 101, capped"),
    "length": ("[0, 1]", "log(1 + characters) / log 10001, capped"),
    "hedges": ("[0, 1]", "log(1 + hedging words) / log 11, capped"),
    "claimed_confidence": ("[0, 1]", "the confidence that its text claims, 0.5 if it claims none"),
    "claim_given": ("{0, 1}", "its text claims a confidence"),
    "truncated": ("{0, 1}", "its response was cut at the length limit"),
    "changed": ("{0, 1}", "its answer differs from the one it held a round ago"),
    "refined": ("{0, 1}", "its response came from REFINE"),
    "adopted": ("{0, 1}", "its response is a peer's"),
    "confidence": ("[0, 1]", "z_conf, the confidence, calibrated or raw, 0.5 if unknown"),
    "confidence_known": ("{0, 1}", "the critic gave a confidence"),
    "logprob": ("[0, 1]", "length-normalised sequence probability, 0.5 if unknown"),
    "logprob_known": ("{0, 1}", "the endpoint gave log-probabilities"),
    "logprob_raw": ("[-1, 0]", "sequence log-probability / 50, capped, 0 if unknown"),
    "lowest_window": ("[-1, 0]", "lowest mean log-probability of 8 tokens / 10, capped"),
    "self_verdict": ("[0, 1]", "the model's own verdict P(yes), 0.5 if unknown"),
    "self_known": ("{0, 1}", "the model gave a verdict"),
    "competence": ("[0, 1]", "prior probability that the agent is right, 0.5 if unknown"),
    "round": ("[0, 1]", "rounds of decisions made / 10, capped"),
    "rounds_left": ("[0, 1]", "rounds of decisions left, this one included / 10, capped"),
    "team_size": ("(0, 1]", "1 / N"),
}
NAMES: tuple[str, ...] = tuple(FEATURES)
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}


class Situation(NamedTuple):
    """The records that a round's observations are computed from.

    Attributes:
        held: The response each agent holds, in the order of the team.
        previous: Cluster of the answer each agent held a round ago. Empty in the first round.
        competence: Prior competence by agent. 0.5 if an agent is missing.
        round: Number of this round of decisions, from 1.
        max_rounds: Rounds of decisions there may be.
    """

    held: Mapping[str, Response | None]
    previous: Mapping[str, int | None]
    competence: Mapping[str, float]
    round: int
    max_rounds: int


def feature(vector: list[float], name: str) -> float:
    """Return a feature by its name."""
    return vector[INDEX[name]]


def rival_of(observation: Observation) -> list[float] | None:
    """Return the features of the peer whose response CONCEDE would adopt, None if there is none.

    That is the surest response with the best backed other answer, as in `consensus.concession`.
    """
    others = [
        peer
        for peer in observation["peers"]
        if feature(peer, "answer_valid") and not feature(peer, "agrees")
    ]

    def backing(peer: list[float]) -> list[float]:
        return [feature(peer, name) for name in ("cluster_confidence", "support", "confidence")]

    return max(others, key=backing, default=None)


def observe(situation: Situation) -> dict[str, Observation]:
    """Return every agent's observation.

    Each has `own` of shape ``[F]`` and `peers` of shape ``[N - 1, F]``, ``F = len(FEATURES)``.
    """
    votes = votes_of(situation.held)
    described = {agent: _describe(situation, agent, votes) for agent in situation.held}
    clusters = {a: r["cluster"] if r else None for a, r in situation.held.items()}
    result = {}
    for observer in situation.held:
        seen = {}
        for agent, features in described.items():
            agrees = clusters[agent] is not None and clusters[agent] == clusters[observer]
            seen[agent] = [*features.values()]
            seen[agent][INDEX["agrees"]] = float(agrees or agent == observer)
        own = seen.pop(observer)
        result[observer] = Observation(own=own, peers=list(seen.values()))
    return result


def _log_scaled(count: int, cap: int) -> float:
    return min(1.0, math.log1p(count) / math.log1p(cap))


def _describe(situation: Situation, agent: str, votes: Sequence[Vote]) -> dict[str, float]:
    """Return an agent's features by name. `observe` fills in `agrees` for each observer."""
    size, response = len(situation.held), situation.held[agent]
    counts: dict[int, int] = {}
    for vote in votes:
        if vote.cluster is not None:
            counts[vote.cluster] = counts.get(vote.cluster, 0) + 1
    cluster = response["cluster"] if response else None
    own_votes = counts.get(cluster, 0) if cluster is not None else 0
    best_other = max((n for c, n in counts.items() if c != cluster), default=0)
    weights = confidence_weights(votes)
    total = math.fsum(weights.values())
    backing = math.fsum(
        weights[v.agent] for v in votes if cluster is not None and v.cluster == cluster
    )

    values = dict.fromkeys(NAMES, 0.0)
    values |= {
        "answer_valid": float(cluster is not None),
        "support": max(0, own_votes - 1) / max(1, size - 1),
        "plurality": float(cluster is not None and own_votes >= best_other),
        "margin": (own_votes - best_other) / size,
        "cluster_confidence": backing / total if total > 0 else 0.0,
        "distinct_answers": len(counts) / size,
        "claimed_confidence": 0.5,
        "confidence": 0.5,
        "logprob": 0.5,
        "self_verdict": 0.5,
        "competence": situation.competence.get(agent, 0.5),
        "round": min(1.0, (situation.round - 1) / 10),
        "rounds_left": max(0.0, min(1.0, (situation.max_rounds - situation.round + 1) / 10)),
        "team_size": 1 / size,
    }
    if agent in situation.previous:
        values["changed"] = float(situation.previous[agent] != cluster)
    if response is not None:
        values |= describe_response(response) | {"adopted": float(response["agent"] != agent)}
    return values


def describe_response(response: Response) -> dict[str, float]:
    """Return the features of a response alone, whoever holds it. What is not known is left out."""
    profile, logprobs, critique = response["profile"], response["logprobs"], response["critique"]
    values = {
        "steps": _log_scaled(profile["steps"], 100),
        "operators": _log_scaled(profile["operators"], 100),
        "length": _log_scaled(profile["length"], 10_000),
        "hedges": _log_scaled(profile["hedges"], 10),
        "truncated": float(profile["truncated"]),
        "refined": float(response["round"] > 0),
    }
    if (claim := profile["claimed_confidence"]) is not None:
        values |= {"claimed_confidence": claim, "claim_given": 1.0}
    if logprobs is not None:
        values |= {
            "logprob": math.exp(logprobs["mean"]),
            "logprob_known": 1.0,
            "logprob_raw": max(-1.0, logprobs["total"] / 50),
            "lowest_window": max(-1.0, logprobs["lowest_window"] / 10),
        }
    if critique is not None:
        if critique["confidence"] is not None:
            values |= {"confidence": critique["confidence"], "confidence_known": 1.0}
        for source in ("self", "self_reasoning", "self_json"):  # a critic gives one of them
            if source in critique["scores"]:
                values |= {"self_verdict": critique["scores"][source], "self_known": 1.0}
                break
    return values
