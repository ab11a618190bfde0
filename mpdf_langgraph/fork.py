"""Forks: a round is decided again from its checkpoint, with forced actions."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, cast

from langgraph.types import Command

from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.state import ACTIONS, Action, DeliberationState, Header, Intervention

#: Stands in the id of a fork, between the id of the first deliberation and a part of its own.
FORK_MARK = "~"


def force_actions(actions: Mapping[str, Action]) -> Command[Any]:
    """Return the update that forks a round: the given agents take the given actions.

    The router decides for the other agents. Give the update to `update_state` as the consensus
    node, on a checkpoint from which a round starts: one whose `next` is ``("router",)``, but not
    the first of these, nor one before the last agent was asked to propose. Then invoke the graph
    with None and the config that `update_state` returns.
    The fork is an episode of its own. Its id is the id of the first episode, ``~`` and another
    part. An agent that is not forced draws its action with the same random number as before.

    Args:
        actions: ``"PERSIST"``, ``"REFINE"`` or ``"CONCEDE"`` by agent name.

    Raises:
        ConfigurationError: A value is not an action. The run raises it too, if an agent does not
            exist or cannot take its action in that round.

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
    given = dict(actions) if isinstance(actions, Mapping) else {}
    if not given or any(action not in ACTIONS for action in given.values()):
        raise ConfigurationError(
            f"force_actions({actions!r:.200}): give {', '.join(ACTIONS)} by agent name"
        )
    return Command(update={"phase": "decide", "forced": given}, goto="router")


def fork_state(agents: Iterable[str], state: DeliberationState) -> DeliberationState:
    """Return the state as an episode of its own, if actions are forced at this round."""
    forced = state.get("forced")
    if not forced:
        return state
    if unknown := set(forced) - set(agents):
        raise ConfigurationError(
            f"force_actions names {', '.join(sorted(map(str, unknown)))}, but the agents are "
            f"{', '.join(agents)}"
        )
    header = state["header"]
    fork = f"{header['id'].partition(FORK_MARK)[0]}{FORK_MARK}{uuid.uuid4().hex}"
    said = ", ".join(f"{name}: {action}" for name, action in forced.items())
    intervention = Intervention(action="force", round=state["round"], text=said, seconds=0.0)
    changed = {
        "header": Header({**header, "id": fork}),
        "interventions": [*state["interventions"], intervention],
    }
    return cast(DeliberationState, {**state, **changed})


def forced_action(state: DeliberationState, name: str, mask: list[bool]) -> Action | None:
    """Return the action that is forced on `name` by a fork or, for REFINE, by a hint, or None.

    Raises:
        ConfigurationError: It cannot take that action.
    """
    forced = (state.get("forced") or {}).get(name)
    if forced is not None and not mask[ACTIONS.index(forced)]:
        why = "no peer holds another answer" if forced == "CONCEDE" else "the budget is spent"
        raise ConfigurationError(
            f"{name!r} cannot {forced} in round {state['round']}, as force_actions wants: {why}"
        )
    # The observation does not hold what the person knows, so no router can judge the hint.
    hinted = any(
        i["action"] == "hint" and i["round"] == state["round"] for i in state["interventions"]
    )
    return forced or ("REFINE" if hinted and mask[ACTIONS.index("REFINE")] else None)
