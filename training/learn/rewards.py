"""Rewards of every move that an agent could have made, from the responses of an episode alone.

A *group* is the rollouts that share one router state: PERSIST, each REFINE that was drawn (the
one taken and the alternatives), and CONCEDE. A rollout replaces only its agent's response, the
peers holding what they held once the round's moves were made, and is worth

    local  = 1[its answer is correct] - 1[the answer held before is correct]
    global = 1[the consensus of all is correct] - 1[the consensus without the agent is correct]

by the episode's own rule, ties included: with three agents the consensus without one ties
whenever the other two differ, and the rule's tie rule decides. Without votes it is wrong. A
response is graded by its own answer, the consensus by the answer that the caller was given.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mpdf_langgraph.consensus import (
    ConsensusRule,
    Vote,
    confidence_weighted,
    leave_one_out,
    majority,
    votes_of,
)
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.learned_consensus import recorded_rule
from mpdf_langgraph.observation import FEATURE_VERSION, FEATURES, Situation, observe
from mpdf_langgraph.rounds import after_move, answer_of
from mpdf_langgraph.router import competences
from mpdf_langgraph.state import ACTIONS, Observation, Response, Turn, tokens
from mpdf_langgraph.traces.records import Episode

PERSIST, REFINE, CONCEDE = range(len(ACTIONS))
#: Of equally good actions the first of these, the cheapest, is the label.
CHEAPEST_FIRST = (PERSIST, CONCEDE, REFINE)
#: Mean rewards closer than this are equal: their difference is rounding.
TOLERANCE = 1e-6

#: Tells whether an answer is correct, given the reference, e.g. ``MathAnswer().equivalent``.
Grader = Callable[[str, str], bool]


@dataclass(frozen=True)
class Weights:
    """What a reward is made of: ``local * r_local + global_ * r_global - cost * tokens / 1000``.

    Attributes:
        local: Weight of the agent's own gain.
        global_: Weight of the group's gain.
        cost: Price of 1,000 tokens. A trade-off, not a tie-break: in ranks any cost counts.
    """

    local: float = 1.0
    global_: float = 1.0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Move:
    """One move at a decision, and where it leads. Nothing in it depends on the reference.

    Attributes:
        action: Index into `ACTIONS`.
        answer: What the agent would answer afterwards. None if it holds no valid answer.
        consensus: What the group would answer afterwards. None without votes.
        tokens: Prompt plus completion tokens of the response drawn and its critique.
        response: Id of the response held afterwards (None: none).
        taken: The episode went this way.
    """

    action: int
    answer: str | None
    consensus: str | None
    tokens: int
    response: str | None
    taken: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """One turn with every move whose outcome is known, in the order of `ACTIONS`.

    Attributes:
        observation: As recorded, or rebuilt if another feature version recorded it.
        mask: Which of `ACTIONS` were allowed.
        behaviour: Probabilities that the action was drawn from.
        action: Index of the action taken.
        before: The answer held at the decision. None if it was not valid.
        without: What the group would answer afterwards had the agent abstained.
        disagreement: The team held at least two different valid answers at the decision.
        moves: PERSIST, then, as far as allowed, the REFINE taken, the alternatives, CONCEDE.
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


def observations(episode: Episode, round_: int) -> dict[str, Observation]:
    """Return a round's observations by agent, from nothing but the responses and tallies.

    They equal those recorded, unless another feature version recorded them.
    """
    turns = {turn["agent"]: turn for turn in episode.turns if turn["round"] == round_}
    before = {name: turns[name]["before"] for name in episode.team}
    return observe(
        Situation(
            held={n: episode.responses[i] if i else None for n, i in before.items()},
            previous=episode.tallies[round_ - 2]["votes"] if round_ > 1 else {},
            competence=competences(episode.agents),
            round=round_,
            max_rounds=episode.options["max_rounds"],
        )
    )


def first_hint(episode: Episode) -> float:
    """Return the first round that a person's hint shaped, infinity without a hint."""
    hints = [i["round"] for i in episode.interventions if i["action"] == "hint"]
    return min(hints, default=math.inf)


def decisions(episode: Episode) -> list[Decision]:
    """Return every decision of an episode with the moves it had, ungraded.

    From a person's hint on there are none: what it gave away is not in the observations.

    Raises:
        ConfigurationError: Its consensus rule is not built in.
        TraceError: The record contradicts itself, or the rule its tallies.
    """
    rule = rule_of(episode)
    rounds: dict[int, dict[str, Turn]] = {}
    unaided = [turn for turn in episode.turns if turn["round"] < first_hint(episode)]
    for turn in unaided:
        rounds.setdefault(turn["round"], {})[turn["agent"]] = turn
    result: list[Decision] = []
    for round_, turns in rounds.items():
        result += _decisions_of_round(episode, round_, turns, rule)
    if len(result) != len(unaided):
        raise TraceError(f"episode {episode.id}: an agent decided twice in one round")
    return result


def rule_of(episode: Episode) -> ConsensusRule:
    """Return the consensus rule that an episode names, or holds the weights of.

    Raises:
        ConfigurationError: It is not built in.
    """
    name = episode.options.get("consensus")
    try:
        return recorded_rule(episode.options, episode.category)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"episode {episode.id} was decided by the consensus rule {name!r}, which is not built "
            "in. Only traces of built-in rules can be learned from"
        ) from error


def _decisions_of_round(
    episode: Episode, round_: int, turns: Mapping[str, Turn], rule: ConsensusRule
) -> list[Decision]:
    order = episode.team
    if turns.keys() != set(order):
        raise TraceError(
            f"episode {episode.id}, round {round_}: turns of {', '.join(turns)}; the team is "
            f"{', '.join(order)}"
        )
    responses = episode.responses
    before = {n: _response(responses, turns[n]["before"]) for n in order}
    after = {n: _response(responses, turns[n]["after"]) for n in order}
    group = _Team(votes_of(after), rule, episode.representatives)
    check_tally(episode, round_, group.elected)
    rebuilt = (
        None
        if episode.options.get("feature_version") == FEATURE_VERSION
        else observations(episode, round_)
    )
    held_clusters = {r["cluster"] for r in before.values() if r is not None} - {None}
    result = []
    for place, name in enumerate(order):
        turn = turns[name]
        observation = rebuilt[name] if rebuilt else turn["observation"]
        sizes = {len(observation["own"]), *map(len, observation["peers"])}
        if sizes != {len(FEATURES)} or len(observation["peers"]) != len(order) - 1:
            raise TraceError(
                f"episode {episode.id}, {name}@{round_}: an observation of another shape than "
                f"{len(order)} agents with {len(FEATURES)} features each"
            )
        without = leave_one_out(after, name, group.winner)
        result.append(
            Decision(
                agent=name,
                round=round_,
                observation=observation,
                mask=turn["mask"],
                behaviour=turn["probabilities"],
                action=ACTIONS.index(turn["action"]),
                before=answer_of(before[name]),
                without=group.answer(without),
                disagreement=len(held_clusters) > 1,
                moves=tuple(_moves(episode, turn, group, place)),
            )
        )
    return result


class _Team:
    """What the team votes once the round's moves are made, and what it would vote instead."""

    def __init__(
        self, votes: Sequence[Vote], rule: ConsensusRule, representatives: Sequence[str]
    ) -> None:
        self.votes, self.rule, self.representatives = votes, rule, representatives
        self.elected = self.winner(votes)
        self._known: dict[tuple[int, Vote], int | None] = dict.fromkeys(
            enumerate(votes), self.elected
        )

    def winner(self, votes: Sequence[Vote]) -> int | None:
        clusters = {vote.cluster for vote in votes} - {None}
        if len(clusters) == 1 and self.rule in (majority, confidence_weighted):
            return next(iter(clusters))  # the usual case, without counting
        return self.rule(list(votes))

    def answer(self, cluster: int | None) -> str | None:
        return None if cluster is None else self.representatives[cluster]

    def consensus(self, place: int, held: Response | None) -> str | None:
        """Return the group's answer if the agent at `place` held that response."""
        [vote] = votes_of({self.votes[place].agent: held})
        key = (place, vote)
        if key not in self._known:
            votes = [*self.votes[:place], vote, *self.votes[place + 1 :]]
            self._known[key] = self.winner(votes)
        return self.answer(self._known[key])


def check_tally(episode: Episode, round_: int, winner: int | None) -> None:
    """Compare a consensus with the one that was recorded.

    Raises:
        TraceError: The record says otherwise.
    """
    recorded = episode.tallies[round_]["cluster"]
    if winner != recorded:
        raise TraceError(
            f"episode {episode.id}, round {round_}: the consensus rule elects cluster {winner}, "
            f"the record says {recorded}: it was decided by another rule"
        )


def _response(responses: Mapping[str, Response], response_id: str | None) -> Response | None:
    return None if response_id is None else responses[response_id]


def _tokens(response: Response) -> int:
    critique = response["critique"]
    return tokens(response["usage"]) + (tokens(critique["usage"]) if critique else 0)


def _moves(episode: Episode, turn: Turn, team: _Team, place: int) -> list[Move]:
    """Return the moves of a turn whose outcome is known."""
    responses, action = episode.responses, ACTIONS.index(turn["action"])
    can_refine, can_concede = turn["mask"][REFINE], turn["mask"][CONCEDE]
    before = _response(responses, turn["before"])

    def move(index: int, held: Response | None, cost: int = 0, *, taken: bool) -> Move:
        return Move(
            action=index,
            answer=answer_of(held),
            consensus=team.consensus(place, held),
            tokens=cost,
            response=held["id"] if held else None,
            taken=taken,
        )

    moves = [move(PERSIST, before, taken=action == PERSIST)]
    if can_refine and action == REFINE:
        cost = _refine_tokens(episode, turn)
        moves.append(move(REFINE, _response(responses, turn["after"]), cost, taken=True))
    for response_id in turn["alternatives"] if can_refine else ():
        if (drawn := responses.get(response_id)) is None:
            continue  # its call failed
        after = after_move("REFINE", before, drawn=drawn)
        moves.append(move(REFINE, after, _tokens(drawn), taken=False))
    if can_concede:
        if turn["target"] is None:
            raise TraceError(
                f"episode {episode.id}, {turn['agent']}@{turn['round']}: CONCEDE without a target"
            )
        moves.append(move(CONCEDE, responses[turn["target"]], taken=action == CONCEDE))
    taken = [one.response for one in moves if one.taken]
    if taken != [turn["after"]]:
        raise TraceError(
            f"episode {episode.id}, {turn['agent']}@{turn['round']}: {turn['action']} (mask "
            f"{turn['mask']}) cannot lead to the response {turn['after']!r} that it records"
        )
    return moves


def _refine_tokens(episode: Episode, turn: Turn) -> int:
    """Return what the REFINE taken cost, also where it failed and changed nothing."""
    name, round_ = turn["agent"], turn["round"]
    changed = turn["after"] is not None and turn["after"] != turn["before"]
    drawn = episode.responses.get(turn["after"] if changed else f"{name}@{round_}")  # type: ignore[arg-type]
    if drawn is not None:
        return _tokens(drawn)
    return sum(
        tokens(failure["usage"])
        for failure in episode.failures
        if (failure["agent"], failure["round"]) == (name, round_)
        and failure["stage"] in ("context", "refine")
    )
