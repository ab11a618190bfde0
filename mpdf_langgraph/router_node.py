"""The `router` node: it starts a question and decides every round of it."""

import time
import uuid
from collections.abc import Mapping
from typing import Any, Literal, cast

from langgraph.types import Command, Overwrite, Send

from mpdf_langgraph import events
from mpdf_langgraph.agent_node import move_cost
from mpdf_langgraph.budget import Purse, spent
from mpdf_langgraph.clock import began, read_clock, stamp
from mpdf_langgraph.consensus import concession
from mpdf_langgraph.errors import ConfigurationError, DeliberationError
from mpdf_langgraph.observation import Situation, observe
from mpdf_langgraph.question import asked
from mpdf_langgraph.router import behaviour, checked_rows, competences, draw
from mpdf_langgraph.settings import Settings
from mpdf_langgraph.state import (
    ACTIONS,
    Action,
    Allowance,
    Assignment,
    Clock,
    DeliberationState,
    Failure,
    Header,
    Intervention,
    Turn,
    held_responses,
    largest_usage,
    no_usage,
)

NextOfRouter = Literal["agent", "consensus"]
#: Sets the id of a fork apart from that of the deliberation it was forked from.
_FORK = "~"


def router_step(settings: Settings, state: DeliberationState) -> Command[NextOfRouter]:
    """Start a new question, or decide the next round of the standing one."""
    if state.get("phase") == "decide":
        state = cast(DeliberationState, {**state, "clock": read_clock(state)})
        return _decide(settings, state)
    return _start(settings, state)


def force_actions(actions: Mapping[str, Action]) -> Command[Any]:
    """Return the update that forks a round: these agents act so, the others as their router says.

    Give it to `update_state` as the consensus node, on a checkpoint from which the round would
    start (one whose `next` is ``("router",)``, but not the first), and invoke the graph with None
    and the config that it returns. The fork is an episode of its own: its id is that of the first
    one, ``~`` and a part that is its own. Every agent that is not forced draws its action with
    the random number that it had.

    Args:
        actions: ``"PERSIST"``, ``"REFINE"`` or ``"CONCEDE"`` by agent name.

    Raises:
        ConfigurationError: One is no action. An agent that is none, or cannot act so in that
            round, is an error of the run.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from langgraph.checkpoint.memory import InMemorySaver
        >>> from mpdf_langgraph import create_deliberation
        >>> team = [FakeListChatModel(responses=[text]) for text in ("Rome", "Paris")]
        >>> build = create_deliberation(team, router="always-persist", critic=None)
        >>> graph = build.compile(checkpointer=InMemorySaver())
        >>> config = {"configurable": {"thread_id": "1"}}
        >>> graph.invoke({"question": "Capital of France?"}, config)["deliberation"]["answer"]
        'Rome'
        >>> [before, _] = [s for s in graph.get_state_history(config) if s.next == ("router",)]
        >>> forced = force_actions({"agent-1": "CONCEDE"})
        >>> fork = graph.update_state(before.config, forced, as_node="consensus")
        >>> graph.invoke(None, fork)["deliberation"]["answer"]
        'Paris'
    """
    wrong = {name: action for name, action in actions.items() if action not in ACTIONS}
    if wrong or not actions:
        raise ConfigurationError(
            f"force_actions({dict(actions)!r}): give {', '.join(ACTIONS)} by agent name"
        )
    return Command(update={"phase": "decide", "forced": dict(actions)}, goto="router")


def _private_contexts(settings: Settings, given: Any) -> dict[str, str]:
    """Return the input's `contexts`, checked: a misspelt name would hide what an agent needs."""
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
    question, history, added = asked(state)
    contexts = _private_contexts(settings, state.get("contexts"))
    reference = state.get("reference")
    if not isinstance(reference, str | None):
        raise ConfigurationError(f"reference must be text or None, got {reference!r:.80}")
    header = Header(
        id=uuid.uuid4().hex,
        started=time.time(),
        question=question,
        reference=reference,
        history=cast(Any, history),
        graph=settings.name,
        agents=settings.describe_agents(),
        options=settings.describe(),
    )
    fresh: dict[str, Any] = {
        "messages": added,
        "deliberation": {},
        "header": header,
        "notes": Overwrite(contexts),
        "round": 0,
        "responses": Overwrite({}),
        "failures": Overwrite([]),
        "held": dict.fromkeys(settings.agents),
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
    purse = Purse(settings.budget, no_usage(), header["started"])
    tasks: list[Assignment] = []
    failures: list[Failure] = []
    for name in settings.agents:
        task = _assignment(settings, blank, name)
        cost = move_cost(settings, task)
        limit = purse.lacks(cost, time.time())
        if limit is None:
            purse.reserve(cost)
            tasks.append(task)
            continue
        error = (
            f"not started: {limit} is {getattr(settings.budget, limit)}, and its call may take "
            f"{cost.tokens} tokens in {cost.calls} call(s)"
        )
        failures.append(
            Failure(
                agent=name, round=0, stage="propose", error=error, usage=no_usage(), seconds=0.0
            )
        )
    if not tasks:
        raise DeliberationError(
            f"the budget does not allow a single proposal; {failures[0]['error']}"
        )
    fresh["failures"] = Overwrite(failures)
    for failure in failures:
        events.failed(header["id"], failure)
    fresh |= stamp(clock)
    fresh["clock"] = Overwrite(fresh["clock"])
    return Command(update=fresh, goto=_sends(tasks, purse))


def _assignment(settings: Settings, state: DeliberationState, name: str) -> Assignment:
    header, agent = state["header"], settings.agents[name]
    mine = [r for r in state["responses"].values() if r["agent"] == name]
    first = state["responses"].get(f"{name}@0")
    measured = first and first["usage"]["calls"] == 1 and not first["usage"]["unreported"]
    notes, timeout = state["notes"].get(name), settings.budget.timeout
    if notes is None and agent.context is None:
        notes = ""
    held = held_responses(state)
    return Assignment(
        episode=header["id"],
        question=header["question"],
        history=header["history"],
        agent=name,
        round=state["round"],
        notes=notes,
        own=held[name],
        peers={peer: r for peer, r in held.items() if peer != name and r is not None},
        act=True,
        alternatives=0,
        prefix_tokens=first["usage"]["prompt_tokens"] if first and measured else None,
        largest_usage=largest_usage(*(r["usage"] for r in mine)),
        allowance=Allowance(
            calls=None,
            tokens=None,
            deadline=None if timeout is None else began(state) + timeout,
        ),
        drawn=[],
        hints=[i["text"] for i in state["interventions"] if i["action"] == "hint"],
        clock=state["clock"],
    )


def _sends(tasks: list[Assignment], purse: Purse) -> list[Send]:
    """Send each task off with its allowance; alternatives alone have but the deadline."""
    allowances = iter(purse.allowances())
    sends = []
    for task in tasks:
        allowance = next(allowances) if task["act"] else task["allowance"]
        sends.append(Send("agent", {**task, "allowance": allowance, **stamp(task["clock"])}))
    return sends


def situation_of(state: DeliberationState) -> Situation:
    """Return what the observations of round ``state["round"]`` are computed from."""
    tallies = state["tallies"]
    return Situation(
        held=held_responses(state),
        previous=tallies[-2]["votes"] if len(tallies) > 1 else {},
        competence=competences(state["header"]["agents"]),
        round=state["round"],
        max_rounds=state["header"]["options"]["max_rounds"],
    )


def _forked(settings: Settings, state: DeliberationState) -> DeliberationState:
    """Return the state as an episode of its own, if actions are forced at this round."""
    forced = state.get("forced")
    if not forced:
        return state
    if unknown := set(forced) - set(settings.agents):
        raise ConfigurationError(
            f"force_actions names {', '.join(sorted(unknown))}, but the agents are "
            f"{', '.join(settings.agents)}"
        )
    header = state["header"]
    fork = f"{header['id'].partition(_FORK)[0]}{_FORK}{uuid.uuid4().hex}"
    said = ", ".join(f"{name}: {action}" for name, action in forced.items())
    intervention = Intervention(action="force", round=state["round"], text=said, seconds=0.0)
    changed = {
        "header": Header({**header, "id": fork}),
        "interventions": [*state["interventions"], intervention],
    }
    return cast(DeliberationState, {**state, **changed})


def _forced(
    settings: Settings, state: DeliberationState, name: str, mask: list[bool]
) -> Action | None:
    """Return what `name` must do: as forced at a fork, or REFINE where a person gave a hint.

    Raises:
        ConfigurationError: It is forced to what it cannot do.
    """
    forced = (state.get("forced") or {}).get(name)
    if forced is not None and not mask[ACTIONS.index(forced)]:
        why = "no peer holds another answer" if forced == "CONCEDE" else "the budget is spent"
        raise ConfigurationError(
            f"{name!r} cannot {forced} in round {state['round']}, as force_actions wants: {why}"
        )
    # What a person knows is not in the observation: no router could tell what it is worth.
    hinted = any(
        i["action"] == "hint" and i["round"] == state["round"] for i in state["interventions"]
    )
    return forced or ("REFINE" if hinted and mask[ACTIONS.index("REFINE")] else None)


def _decide(settings: Settings, state: DeliberationState) -> Command[NextOfRouter]:
    state = _forked(settings, cast(DeliberationState, {**state, "round": state["round"] + 1}))
    header, round_ = state["header"], state["round"]
    held = held_responses(state)
    observations = observe(situation_of(state))
    targets = {name: concession(held, name) for name in settings.agents}
    purse = Purse(settings.budget, spent(state), began(state))
    seed = header["id"].partition(_FORK)[0]
    assignments = {name: _assignment(settings, state, name) for name in settings.agents}
    costs = {name: move_cost(settings, task) for name, task in assignments.items()}

    def mask_of(name: str) -> tuple[list[bool], str | None]:
        limit = purse.lacks(costs[name], time.time())
        return [True, limit is None, targets[name] is not None], limit

    rows = checked_rows(
        settings.router.decide(
            [observations[name] for name in settings.agents],
            [mask_of(name)[0] for name in settings.agents],
        ),
        len(settings.agents),
        settings.router.name,
    )
    turns: list[Turn] = []
    tasks: list[Assignment] = []
    # One by one, as each REFINE leaves less of the budget for those after it.
    for name, row in zip(settings.agents, rows, strict=True):
        mask, limit = mask_of(name)
        probabilities = behaviour(row, mask, settings.explore)
        forced = _forced(settings, state, name, mask)
        if forced is not None:
            probabilities = [float(action == forced) for action in ACTIONS]
        action = draw(probabilities, f"{seed}/{round_}/{name}")
        if action == "REFINE":
            purse.reserve(costs[name])
        extra = settings.alternatives if mask[1] else 0
        if action == "REFINE" or extra:
            task = assignments[name]
            tasks.append(Assignment({**task, "act": action == "REFINE", "alternatives": extra}))
        turns.append(
            Turn(
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
        )
    for turn in turns:
        events.decided(header["id"], turn, held)
    update = {
        "round": round_,
        "turns": [*state["turns"], *turns],
        "header": header,
        "interventions": state["interventions"],
        **stamp(state["clock"]),
    }
    goto: list[Send] | Literal["consensus"] = _sends(tasks, purse) if tasks else "consensus"
    return Command(update=update, goto=goto)
