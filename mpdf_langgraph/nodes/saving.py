"""Calls that cannot change the answer: which of them are not made, and how many those were."""

from collections.abc import Sequence

from mpdf_langgraph.consensus import is_decided, votes_of
from mpdf_langgraph.critic import SelfLogprobCritic
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.rounds import Held, after_move
from mpdf_langgraph.router import never_moves
from mpdf_langgraph.runtime.budget import is_alternative
from mpdf_langgraph.state import DECIDED, DeliberationState, Response, Turn, held_responses

#: The reason of a `Recruit` for the same.
NOBODY_DECIDES = "those who were not asked cannot change the answer"


def is_round_decided(settings: Settings, state: DeliberationState, turns: Sequence[Turn]) -> bool:
    """Tell whether the moves that cost nothing decide the last round, whatever REFINE gives.

    Actions that were forced are carried out.
    """
    refining = [turn["agent"] for turn in turns if turn["action"] == "REFINE"]
    last = state["round"] >= settings.max_rounds
    if not settings.stop_when_decided or not last or not refining or state.get("forced"):
        return False
    held = held_responses(state)
    for turn in turns:
        target = state["responses"][turn["target"]] if turn["target"] else None
        held[turn["agent"]] = after_move(turn["action"], held[turn["agent"]], target=target)
    fixed: Held = {name: held[name] for name in held if name not in refining}
    return is_decided(
        votes_of(fixed),
        len(refining),
        settings.consensus,
        criticised=settings.critic is not None,
    )


def are_proposals_decided(settings: Settings, state: DeliberationState) -> bool:
    """Tell whether the agents that were not asked to propose could not change the answer.

    That is so only where no round of decisions follows in which anybody moves.
    """
    if not settings.stop_when_decided or (
        settings.max_rounds and (settings.explore or not never_moves(settings.router))
    ):
        return False
    held = held_responses(state)
    votes = [
        # What agreement says changes with every further answer.
        vote._replace(confidence=None) if _is_agreement(held[vote.agent]) else vote
        for vote in votes_of(held)
    ]
    waiting = len(settings.agents) - len(state["held"])
    return is_decided(votes, waiting, settings.consensus, criticised=settings.critic is not None)


def _is_agreement(response: Response | None) -> bool:
    critique = response["critique"] if response else None
    return critique is not None and critique["source"] == "agreement"


def count_saved_calls(settings: Settings, state: DeliberationState) -> int:
    """Return how many calls were not made, as they could not change the answer.

    These are REFINEs, proposals, their critiques, and verdicts that nobody would have read.
    """
    critic = settings.critic
    spared = [turn["agent"] for turn in state["turns"] if turn["blocked"] == DECIDED]
    if state["recruits"] and state["recruits"][-1]["why"] == NOBODY_DECIDES:
        spared += state["recruits"][-1]["waiting"]
    saved = sum(1 + (critic.max_calls(settings.agents[a]) if critic else 0) for a in spared)
    if not isinstance(critic, SelfLogprobCritic):
        return saved
    return saved + sum(
        critic.unread_calls(settings.agents[response["agent"]], response)
        for response in state["responses"].values()
        if not is_alternative(response) and not settings.reads_scores(response["round"])
    )
