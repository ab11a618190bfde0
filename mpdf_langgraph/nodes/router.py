"""The `router` node: it starts a question and decides every round of it."""

import time
import uuid
from typing import Any, Literal, cast

from langgraph.config import get_config
from langgraph.types import Command, Overwrite

from mpdf_langgraph.consensus import concession
from mpdf_langgraph.errors import ConfigurationError, DeliberationError, plugged_in
from mpdf_langgraph.fork import FORK_MARK, forced_action, fork_state
from mpdf_langgraph.history import readable_history
from mpdf_langgraph.nodes.person import check_checkpointer
from mpdf_langgraph.nodes.question import find_question
from mpdf_langgraph.nodes.recruit import is_recruiting, recruit
from mpdf_langgraph.nodes.saving import is_round_decided
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.nodes.task import assign, move_cost, reserved_cost, send_tasks
from mpdf_langgraph.observation import Situation, observe
from mpdf_langgraph.router import (
    behaviour,
    check_estimates,
    check_rows,
    competences,
    draw,
    for_team,
)
from mpdf_langgraph.runtime import events
from mpdf_langgraph.runtime.budget import BudgetShares, total_cost, total_usage
from mpdf_langgraph.runtime.calls import Steps
from mpdf_langgraph.runtime.clock import clock_update, read_clock, started_at
from mpdf_langgraph.state import (
    ACTIONS,
    DECIDED,
    Assignment,
    Clock,
    DeliberationState,
    Failure,
    Header,
    Observation,
    Turn,
    held_responses,
    no_usage,
)

NextOfRouter = Literal["agent", "consensus"]


def router_steps(settings: Settings, state: DeliberationState) -> Steps[Command[NextOfRouter]]:
    """Start a new question, ask further agents, or decide the next round of the standing one."""
    yield from ()  # it calls nobody
    check_checkpointer(settings, get_config())
    phase = state.get("phase")
    if phase in ("recruit", "decide"):
        if not state.get("header"):
            raise ConfigurationError(
                "force_actions: no round starts from this checkpoint, as nobody was asked yet. "
                "Take a later one"
            )
        state = cast(DeliberationState, {**state, "clock": read_clock(state)})
        return recruit(settings, state) if phase == "recruit" else _decide(settings, state)
    return _start(settings, state)


def _private_contexts(settings: Settings, given: Any) -> dict[str, str]:
    """Return the input's `contexts` after a check of the agents' names."""
    if not given:
        return {}
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise ConfigurationError(
            f"contexts must be a dict from agent names to text, got {given!r:.80}"
        )
    if unknown := set(given) - set(settings.agents):
        raise ConfigurationError(
            f"contexts names {', '.join(sorted(map(str, unknown)))}, but the agents are "
            f"{', '.join(settings.agents)}"
        )
    return dict(given)


def _start(settings: Settings, state: DeliberationState) -> Command[NextOfRouter]:
    asked = find_question(state)
    contexts = _private_contexts(settings, state.get("contexts"))
    reference = state.get("reference")
    if not isinstance(reference, str | None):
        raise ConfigurationError(f"reference must be text or None, got {reference!r:.80}")
    category = state.get("category")
    if not isinstance(category, str | None):
        raise ConfigurationError(f"category must be text or None, got {category!r:.80}")
    header = Header(
        id=uuid.uuid4().hex,
        started=time.time(),
        question=asked.text,
        reference=reference,
        history=cast(Any, readable_history(asked.history)),
        graph=settings.name,
        agents=settings.describe_agents(),
        options=settings.describe(),
        attachments=asked.attachments,
        category=category,
    )
    fresh: dict[str, Any] = {
        "messages": asked.added,
        "deliberation": {},
        "header": header,
        "notes": Overwrite(contexts),
        "round": 0,
        "responses": Overwrite({}),
        "failures": Overwrite([]),
        "held": dict.fromkeys(settings.first_asked()),
        "recruits": [],
        "turns": [],
        "representatives": [],
        "tallies": [],
        "judge_usage": no_usage(),
        "interventions": [],
    }
    clock = Clock(paused=0.0, at=header["started"])
    blank = cast(
        DeliberationState,
        {**state, **fresh, "notes": contexts, "responses": {}, "clock": clock},
    )
    shares = BudgetShares(settings.budget, no_usage(), header["started"])
    tasks: list[Assignment] = []
    failures: list[Failure] = []
    for name in settings.first_asked():
        task = assign(settings, blank, name)
        cost = reserved_cost(settings, task)
        limit = shares.lacks(cost, time.time())
        if limit is None:
            shares.reserve(cost)
            tasks.append(task)
            continue
        cost = move_cost(settings, task)
        needs = {
            "timeout": "that time is over",
            "max_calls": f"it takes {cost.calls} call(s) more",
            "max_cost": f"its call may take {cost.tokens} tokens at the price {cost.price:g}",
        }.get(limit, f"its call may take {cost.tokens} tokens")
        error = f"not started: {limit} is {getattr(settings.budget, limit)}, and {needs}"
        failures.append(
            Failure(
                agent=name, round=0, stage="propose", error=error, usage=no_usage(), seconds=0.0
            )
        )
    if not tasks:
        raise DeliberationError(
            f"the budget does not allow a single proposal: {failures[0]['error']}"
        )
    if settings.recruiting is not None:  # who was not asked is left out, as after later waves
        failures = []
        fresh["held"] = {task["agent"]: None for task in tasks}
    fresh["failures"] = Overwrite(failures)
    for failure in failures:
        events.emit_failure(header["id"], failure)
    fresh |= clock_update(clock)
    fresh["clock"] = Overwrite(fresh["clock"])
    return Command(update=fresh, goto=send_tasks(tasks, shares))


def current_situation(state: DeliberationState) -> Situation:
    """Return what the observations of round ``state["round"]`` are computed from."""
    tallies = state["tallies"]
    return Situation(
        held=held_responses(state),
        previous=tallies[-2]["votes"] if len(tallies) > 1 else {},
        competence=competences(state["header"]["agents"]),
        round=state["round"],
        max_rounds=state["header"]["options"]["max_rounds"],
    )


def _copy(seen: Observation) -> Observation:
    return Observation(own=[*seen["own"]], peers=[[*peer] for peer in seen["peers"]])


def _decide(settings: Settings, state: DeliberationState) -> Command[NextOfRouter]:
    if is_recruiting(settings, state):
        raise ConfigurationError(
            "force_actions: no round starts from this checkpoint, as the router still decides whom "
            "to ask. Take a later one"
        )
    state = fork_state(
        state["held"], cast(DeliberationState, {**state, "round": state["round"] + 1})
    )
    header, round_ = state["header"], state["round"]
    held = held_responses(state)
    observations = observe(current_situation(state))
    targets = {name: concession(held, name) for name in held}
    shares = BudgetShares(settings.budget, total_usage(state), started_at(state), total_cost(state))
    seed = header["id"].partition(FORK_MARK)[0]
    assignments = {name: assign(settings, state, name) for name in held}
    costs = {name: reserved_cost(settings, task) for name, task in assignments.items()}

    def mask_of(name: str) -> tuple[list[bool], str | None]:
        limit = shares.lacks(costs[name], time.time())
        return [True, limit is None, targets[name] is not None], limit

    router, names = for_team(settings.router, list(held)), list(held)
    # Copies, as a router of one's own may change what it gets. The trace has what was there.
    seen = [_copy(observations[name]) for name in names]
    estimates = [dict[str, float]() for _ in names]
    with plugged_in(f"the router {router.name!r}"):
        if hasattr(router, "estimate"):
            estimates = check_estimates(router.estimate(seen), len(names), router.name)
        rows = check_rows(
            router.decide(seen, [mask_of(name)[0] for name in names]), len(names), router.name
        )
    turns: list[Turn] = []
    tasks: list[Assignment] = []
    # One by one, as each REFINE leaves less of the budget for the agents after it.
    for name, row, estimated in zip(names, rows, estimates, strict=True):
        mask, limit = mask_of(name)
        probabilities = behaviour(row, mask, settings.explore)
        forced = forced_action(state, name, mask)
        if forced is not None:
            probabilities = [float(action == forced) for action in ACTIONS]
        action = draw(probabilities, _draw_seed(seed, round_, name))
        if action == "REFINE":
            shares.reserve(costs[name])
        extra = settings.alternatives if mask[1] else 0
        if action == "REFINE" or extra:
            task = assignments[name]
            tasks.append(Assignment({**task, "act": action == "REFINE", "alternatives": extra}))
        turn = Turn(
            agent=name,
            round=round_,
            observation=observations[name],
            mask=mask,
            probabilities=probabilities,
            action=action,
            before=state["held"][name],
            after=None,
            target=targets[name],
            alternatives=[f"{name}@{round_}+{k}" for k in range(1, extra + 1)],
            blocked=limit,
        )
        if estimated:
            turn["estimates"] = estimated
        turns.append(turn)
    if is_round_decided(settings, state, turns):
        tasks = []
        for turn, row in zip(turns, rows, strict=True):
            if turn["action"] == "REFINE":
                _bar_refine(settings, turn, row, seed)
    for turn in turns:
        events.emit_decision(header["id"], turn, held)
    update = {
        "round": round_,
        "turns": [*state["turns"], *turns],
        "header": header,
        "interventions": state["interventions"],
        **clock_update(state["clock"]),
    }
    goto: Any = send_tasks(tasks, shares) if tasks else "consensus"
    return Command(update=update, goto=goto)


def _draw_seed(episode: str, round_: int, agent: str) -> str:
    return f"{episode}/{round_}/{agent}"


def _bar_refine(settings: Settings, turn: Turn, row: list[float], episode: str) -> None:
    """Draw the action of a turn again, without REFINE, which could not change the answer."""
    turn["mask"] = [True, False, turn["mask"][2]]
    turn["probabilities"] = behaviour(row, turn["mask"], settings.explore)
    turn["action"] = draw(turn["probabilities"], _draw_seed(episode, turn["round"], turn["agent"]))
    turn["blocked"] = DECIDED
