"""What can be had from proposals alone, computed from one pool of samples per question.

A vote of k is the graph with k agents that always persist; as it makes no decision, all of these
methods follow exactly from the first k proposals of one larger vote (a test holds the two equal).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpdf_langgraph import Episode
from mpdf_langgraph.consensus import (
    ConsensusRule,
    Vote,
    concession,
    confidence_weighted,
    majority,
)
from mpdf_langgraph.state import Response, add_usage, no_usage, tokens


@dataclass(frozen=True)
class Outcome:
    """What a method made of one question.

    Attributes:
        answer: The group's answer; None where there is none.
        tokens: Prompt and completion tokens, the critic's included.
        calls: LLM calls.
        actions: How often each action was taken, where there are actions.
    """

    answer: str | None
    tokens: int
    calls: int
    actions: dict[str, int]


def proposals(episode: Episode) -> list[Response | None]:
    """Return a vote's proposals in the order of the team; None where one failed."""
    return [episode.responses.get(f"{agent['name']}@0") for agent in episode.agents]


def cost(drawn: Sequence[Response | None]) -> tuple[int, int]:
    """Return tokens and calls of some responses, their critiques included."""
    usage = no_usage()
    for response in drawn:
        if response is not None:
            critique = response["critique"]["usage"] if response["critique"] else no_usage()
            usage = add_usage(usage, response["usage"], critique)
    return tokens(usage), usage["calls"]


def ballot(drawn: Sequence[Response | None]) -> list[Vote]:
    """Return the votes of some responses, each an agent's."""
    votes = []
    for number, response in enumerate(drawn):
        critique = response["critique"] if response else None
        cluster = response["cluster"] if response else None
        votes.append(Vote(str(number), cluster, critique["confidence"] if critique else None))
    return votes


def _outcome(episode: Episode, drawn: Sequence[Response | None], cluster: int | None) -> Outcome:
    answer = None if cluster is None else episode.representatives[cluster]
    return Outcome(answer, *cost(drawn), {})


def vote(k: int, rule: ConsensusRule = majority) -> Callable[[Episode], Outcome]:
    """Return the vote of the first k proposals (self-consistency, Wang et al. 2022)."""

    def method(episode: Episode) -> Outcome:
        drawn = proposals(episode)[:k]
        return _outcome(episode, drawn, rule(ballot(drawn)))

    return method


def weighted_vote(k: int) -> Callable[[Episode], Outcome]:
    """Return the confidence-weighted vote of the first k proposals."""
    return vote(k, confidence_weighted)


def best_of(k: int) -> Callable[[Episode], Outcome]:
    """Return the most confident of the first k proposals."""

    def surest(votes: Sequence[Vote]) -> int | None:
        valid = [v for v in votes if v.cluster is not None]
        known = [v for v in valid if v.confidence is not None] or valid
        return max(known, key=lambda v: v.confidence or 0.0).cluster if known else None

    return vote(k, surest)


def adaptive(share: float, least: int = 3) -> Callable[[Episode], Outcome]:
    """Return adaptive resampling: draw until the confidence-weighted vote is settled.

    Adaptive consistency (Aggarwal et al. 2023) with confidences as weights.

    Args:
        share: The leading answer's share of the summed confidence from which it is settled.
        least: Proposals drawn at first.
    """

    def method(episode: Episode) -> Outcome:
        pool = proposals(episode)
        for k in range(least, len(pool) + 1):
            votes = ballot(pool[:k])
            leader = confidence_weighted(votes)
            total = sum(v.confidence or 0.0 for v in votes if v.cluster is not None)
            backing = sum(v.confidence or 0.0 for v in votes if v.cluster == leader)
            if leader is not None and total > 0 and backing >= share * total:
                break
        drawn = pool[:k]
        return _outcome(episode, drawn, confidence_weighted(ballot(drawn)))

    return method


def replaced(episode: Episode, pool: Episode, rule: ConsensusRule) -> Outcome:
    """Replay an episode's decisions with every REFINE replaced by a fresh proposal.

    The control: where it does as well, refining was worth no more than another sample. The
    agents hold their proposals from the pool at first; CONCEDE goes to whoever is strongest
    among what is held then.

    Args:
        episode: The deliberation whose decisions are replayed.
        pool: A vote of more agents on the same question; those at the same place in the team's
            turn (1, 4, 7, ... for the first of three) have the same information.
        rule: How votes are counted.
    """
    names = [agent["name"] for agent in episode.agents]
    samples = proposals(pool)
    fresh = {name: samples[place :: len(names)] for place, name in enumerate(names)}
    held = {name: fresh[name].pop(0) for name in names}
    used = [*held.values()]
    actions: dict[str, int] = {}
    for round_ in range(1, episode.outcome["rounds"] + 1):
        before = dict(held)
        by_id = {r["id"]: r for r in before.values() if r is not None}
        for turn in (turn for turn in episode.turns if turn["round"] == round_):
            name, action = turn["agent"], turn["action"]
            actions[action] = actions.get(action, 0) + 1
            if action == "REFINE" and fresh[name]:
                sample = fresh[name].pop(0)
                used.append(sample)
                held[name] = sample if sample is not None else before[name]
            elif action == "CONCEDE":
                target = concession(before, name)
                held[name] = by_id[target] if target else before[name]
    outcome = _outcome(pool, used, rule(ballot([*held.values()])))
    return Outcome(outcome.answer, outcome.tokens, outcome.calls, actions)


def outcome_of(episode: Episode) -> Outcome:
    """Return what a deliberation made of its question."""
    usage = episode.outcome["usage"]["total"]
    actions: dict[str, int] = {}
    for turn in episode.turns:
        actions[turn["action"]] = actions.get(turn["action"], 0) + 1
    return Outcome(episode.outcome["answer"], usage["tokens"], usage["calls"], actions)
