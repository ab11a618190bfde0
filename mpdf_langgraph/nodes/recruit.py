"""The router's decision after each wave of proposals: ask the next agents, or stop asking."""

import time
from typing import Any, Literal, cast

from langgraph.types import Command

from mpdf_langgraph.nodes.saving import NOBODY_DECIDES, are_proposals_decided
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.nodes.task import assign, reserved_cost, send_tasks
from mpdf_langgraph.recruiting import AdaptiveRecruiting, leading_confidence, stand_of
from mpdf_langgraph.runtime import events
from mpdf_langgraph.runtime.budget import BudgetShares, total_cost, total_usage
from mpdf_langgraph.runtime.clock import clock_update, started_at
from mpdf_langgraph.state import (
    Assignment,
    DeliberationState,
    Recruit,
    charged_tokens,
    held_responses,
)

#: How the reason of a `Recruit` ends that a budget has made. The budget's name stands before it.
_NOT_ALLOWED = " does not allow another proposal"


def asking_limit(state: DeliberationState) -> str | None:
    """Return the budget that ended the asking, None if none did."""
    why = state["recruits"][-1]["why"] if state["recruits"] else ""
    return why.removesuffix(_NOT_ALLOWED) if why.endswith(_NOT_ALLOWED) else None


def is_recruiting(settings: Settings, state: DeliberationState) -> bool:
    """Tell whether the router still has to decide if somebody else is asked to propose."""
    if settings.recruiting is None or state["round"] > 0:
        return False
    if len(state["held"]) == len(settings.agents):
        return False
    return not state["recruits"] or state["recruits"][-1]["action"] == "ASK"


def recruit(settings: Settings, state: DeliberationState) -> Command[Literal["agent", "consensus"]]:
    """Weigh what asking the next wave is worth. Send it to propose, or stop asking."""
    recruiting = cast(AdaptiveRecruiting, settings.recruiting)
    asked = list(state["held"])
    order = [name for name in recruiting.order(list(settings.agents)) if name not in asked]
    wave = order[: recruiting.wave]
    used = total_usage(state)
    proposals = max(1, len(state["responses"]))
    held_now = held_responses(state)
    stand = stand_of(held_now)
    tally = state["tallies"][-1]
    worth = recruiting.weigh(
        len(asked),
        stand,
        probability=tally.get("probability"),
        confidence=leading_confidence(held_now, tally),
        price=sum(settings.agents[name].price for name in wave),
        tokens=charged_tokens(used) / proposals,
    )
    shares = BudgetShares(settings.budget, used, started_at(state), total_cost(state))
    widened = cast(
        DeliberationState,
        {**state, "held": {n: state["held"].get(n) for n in settings.agents if n in asked + wave}},
    )
    tasks: list[Assignment] = []
    decided = are_proposals_decided(settings, state)
    limit = None
    for name in wave if worth.pays and not decided else ():
        task = assign(settings, widened, name)
        cost = reserved_cost(settings, task)
        limit = shares.lacks(cost, time.time())
        if limit is not None:
            break
        shares.reserve(cost)
        tasks.append(task)
    names = [task["agent"] for task in tasks]
    why = worth.why
    if limit is not None:
        why += f", and {limit} allows no more of the wave"
        why = why if tasks else f"{limit}{_NOT_ALLOWED}"
    if worth.pays and decided:
        why = NOBODY_DECIDES
    decision = Recruit(
        asked=asked,
        action="ASK" if tasks else "STOP",
        next=names,
        waiting=[name for name in order if name not in names],
        leader=stand.leader,
        runner_up=stand.runner_up,
        gain=worth.gain,
        price=worth.price,
        why=why,
    )
    events.emit_recruit(state["header"]["id"], decision)
    update: dict[str, Any] = {
        "recruits": [*state["recruits"], decision],
        **clock_update(state["clock"]),
    }
    if not tasks:
        return Command(update=update, goto="consensus")
    held = {n: i for n, i in widened["held"].items() if n in asked + names}
    return Command(update={**update, "held": held}, goto=send_tasks(tasks, shares))
