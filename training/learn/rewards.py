"""What moves every agent had at its decisions, and what their rewards are made of.

A *group* is the rollouts that share one router state: PERSIST, each REFINE that was drawn (the
one taken and the alternatives), and CONCEDE. A rollout replaces only its agent's response, the
peers holding what they held once the round's moves were made, and is worth

    local  = 1[its answer is correct] - 1[the answer held before is correct]
    global = 1[the consensus of all is correct] - 1[the consensus without the agent is correct]

by the episode's own rule, ties included: with three agents the consensus without one ties
whenever the other two differ, and the rule's tie rule decides. Without votes it is wrong. A
response is graded by its own answer, the consensus by the answer that the caller was given.
`dataset` computes them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpdf_langgraph.consensus import ConsensusRule, votes_of
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.learned_consensus import recorded_rule
from mpdf_langgraph.observation import FEATURE_VERSION, FEATURES
from mpdf_langgraph.rounds import Held, after_move
from mpdf_langgraph.state import ACTIONS, Response, Turn, tokens
from mpdf_langgraph.traces.records import Episode

PERSIST, REFINE, CONCEDE = range(len(ACTIONS))
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
        tokens: Prompt plus completion tokens of the response drawn and its critique.
        response: Id of the response held afterwards (None: none).
        taken: The episode went this way.
    """

    action: int
    tokens: int
    response: str | None
    taken: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """One turn with every move whose outcome is known, in the order of `ACTIONS`.

    Attributes:
        agent: Who decided.
        round: Of decisions, from 1.
        mask: Which of `ACTIONS` were allowed.
        behaviour: Probabilities that the action was drawn from.
        moves: PERSIST, then, as far as allowed, the REFINE taken, the alternatives, CONCEDE.
    """

    agent: str
    round: int
    mask: list[bool]
    behaviour: list[float]
    moves: tuple[Move, ...]


def first_hint(episode: Episode) -> float:
    """Return the first round that a person's hint shaped, infinity without a hint."""
    hints = [i["round"] for i in episode.interventions if i["action"] == "hint"]
    return min(hints, default=math.inf)


def decisions(episode: Episode) -> list[Decision]:
    """Return every decision of an episode with the moves it had.

    From a person's hint on there are none: what it gave away is not in the observations.

    Raises:
        TraceError: The record contradicts itself.
    """
    rounds: dict[int, dict[str, Turn]] = {}
    hint = first_hint(episode)
    unaided = [turn for turn in episode.turns if turn["round"] < hint]
    for turn in unaided:
        rounds.setdefault(turn["round"], {})[turn["agent"]] = turn
    result = [
        decision
        for round_, turns in rounds.items()
        for decision in _decisions_of_round(episode, round_, turns)
    ]
    if len(result) != len(unaided):
        raise TraceError(f"episode {episode.id}: an agent decided twice in one round")
    return result


def rule_of(episode: Episode) -> ConsensusRule:
    """Return the consensus rule that an episode names, or holds the weights of.

    Raises:
        ConfigurationError: It is not built in.
    """
    try:
        return recorded_rule(episode.options, episode.category)
    except ConfigurationError as error:
        raise not_built_in(episode.id, str(episode.options.get("consensus"))) from error


def not_built_in(episode_id: str, rule: str) -> ConfigurationError:
    """Return the error for an episode that a rule of the user's own decided."""
    return ConfigurationError(
        f"episode {episode_id} was decided by the consensus rule {rule!r}, which is not built in. "
        "Only traces of built-in rules can be learned from"
    )


def _decisions_of_round(
    episode: Episode, round_: int, turns: Mapping[str, Turn]
) -> Iterator[Decision]:
    team = episode.team
    if turns.keys() != set(team):
        raise TraceError(
            f"episode {episode.id}, round {round_}: turns of {', '.join(turns)}; the team is "
            f"{', '.join(team)}"
        )
    known = episode.options.get("feature_version") == FEATURE_VERSION
    for name in team:
        turn = turns[name]
        seen = turn["observation"]
        sizes = {len(seen["own"]), *map(len, seen["peers"])}
        if known and (sizes != {len(FEATURES)} or len(seen["peers"]) != len(team) - 1):
            raise TraceError(
                f"episode {episode.id}, {name}@{round_}: an observation of another shape than "
                f"{len(team)} agents with {len(FEATURES)} features each"
            )
        yield Decision(
            agent=name,
            round=round_,
            mask=turn["mask"],
            behaviour=turn["probabilities"],
            moves=tuple(_moves(episode, turn)),
        )


def check_tallies(episode: Episode, rule: ConsensusRule, rounds: Sequence[Held]) -> None:
    """Compare the consensus of what was held after each round with the one that was recorded.

    Raises:
        TraceError: The record says otherwise.
    """
    for round_, held in enumerate(rounds):
        votes = votes_of(held)
        clusters = {vote.cluster for vote in votes} - {None}
        # Where all agree, every built-in rule elects their answer.
        winner = next(iter(clusters)) if len(clusters) == 1 else rule(votes)
        recorded = episode.tallies[round_]["cluster"]
        if winner != recorded:
            raise TraceError(
                f"episode {episode.id}, round {round_}: the consensus rule elects cluster "
                f"{winner}, the record says {recorded}: it was decided by another rule"
            )


def _response(responses: Mapping[str, Response], response_id: str | None) -> Response | None:
    return None if response_id is None else responses[response_id]


def tokens_of(response: Response, *, judged: bool = True) -> int:
    """Return the prompt and completion tokens of a response, and of the verdict on it if read."""
    critique = response["critique"]
    return tokens(response["usage"]) + (tokens(critique["usage"]) if critique and judged else 0)


def _moves(episode: Episode, turn: Turn) -> list[Move]:
    """Return the moves of a turn whose outcome is known."""
    responses, action = episode.responses, ACTIONS.index(turn["action"])
    can_refine, can_concede = turn["mask"][REFINE], turn["mask"][CONCEDE]
    before = _response(responses, turn["before"])

    def move(index: int, held: Response | None, cost: int = 0, *, taken: bool) -> Move:
        return Move(
            action=index,
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
        moves.append(move(REFINE, after, tokens_of(drawn), taken=False))
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
        return tokens_of(drawn)
    return sum(
        tokens(failure["usage"])
        for failure in episode.failures
        if (failure["agent"], failure["round"]) == (name, round_)
        and failure["stage"] in ("context", "refine")
    )
