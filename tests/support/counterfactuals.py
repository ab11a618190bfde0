"""What every move leads to, one turn at a time and by the plugin's own rules.

`training` computes the same with arrays. Tests hold the two equal.
"""

from dataclasses import dataclass

from mpdf_langgraph.consensus import votes_of
from mpdf_langgraph.observation import FEATURE_VERSION
from mpdf_langgraph.rounds import answer_of
from mpdf_langgraph.state import Observation
from mpdf_langgraph.traces.records import Episode
from training.learn import rewards
from training.learn.recalibrate import observations
from training.learn.rewards import rule_of


@dataclass(frozen=True)
class Move:
    """A move as in `training.learn.rewards`, and what it leads to.

    Attributes:
        answer: What the agent would answer afterwards. None if it holds no valid answer.
        consensus: What the group would answer afterwards. None without votes.
    """

    action: int
    answer: str | None
    consensus: str | None
    tokens: int
    response: str | None
    taken: bool


@dataclass(frozen=True)
class Decision:
    """A decision as in `training.learn.rewards`, and what it was made on.

    Attributes:
        observation: As recorded, or rebuilt if another feature version recorded it.
        before: The answer held at the decision. None if it was not valid.
        without: What the group would answer afterwards had the agent abstained.
        disagreement: The team held at least two different valid answers at the decision.
    """

    agent: str
    round: int
    observation: Observation
    mask: list[bool]
    behaviour: list[float]
    action: int
    before: str | None
    without: str | None
    disagreement: bool
    moves: tuple[Move, ...]


def decisions(episode: Episode) -> list[Decision]:
    """Return every decision with what its moves lead to."""
    return [_complete(episode, one) for one in rewards.decisions(episode)]


def _complete(episode: Episode, made: rewards.Decision) -> Decision:
    rule = rule_of(episode)
    turns = {t["agent"]: t for t in episode.turns if t["round"] == made.round}
    before, after = (
        {name: episode.responses[id_] if (id_ := turns[name][when]) else None for name in turns}
        for when in ("before", "after")
    )

    def answer(cluster: int | None) -> str | None:
        return None if cluster is None else episode.representatives[cluster]

    moves = []
    for move in made.moves:
        held = episode.responses[move.response] if move.response else None
        moves.append(
            Move(
                action=move.action,
                answer=answer_of(held),
                consensus=answer(rule(votes_of({**after, made.agent: held}))),
                tokens=move.tokens,
                response=move.response,
                taken=move.taken,
            )
        )
    clusters = {r["cluster"] for r in before.values() if r is not None} - {None}
    recorded = turns[made.agent]["observation"]
    known = episode.options.get("feature_version") == FEATURE_VERSION
    return Decision(
        agent=made.agent,
        round=made.round,
        observation=recorded if known else observations(episode, made.round)[made.agent],
        mask=made.mask,
        behaviour=made.behaviour,
        action=next(move.action for move in made.moves if move.taken),
        before=answer_of(before[made.agent]),
        without=answer(rule(votes_of({**after, made.agent: None}))),
        disagreement=len(clusters) > 1,
        moves=tuple(moves),
    )
