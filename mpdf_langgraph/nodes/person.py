"""The `person` node: it asks a person what to do with the current answers.

It exists only if `interrupt_when` is given. It calls no model, as LangGraph runs a node again from
its start when it is resumed. The consensus node has counted the votes before.
"""

from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.constants import CONFIG_KEY_CHECKPOINTER
from langgraph.types import Command, interrupt

from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.history import writable
from mpdf_langgraph.nodes.outcome import describe_standing, finish
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.runtime import events
from mpdf_langgraph.runtime.calls import Steps
from mpdf_langgraph.runtime.clock import clock_update, read_clock
from mpdf_langgraph.state import DeliberationState, Header, Intervention

NextOfPerson = Literal["router", "__end__"]
#: The replies that a person may give. They are shown to the person.
REPLIES = (
    {"action": "settle"},
    {"action": "hint", "text": "what the agents should know in one more round"},
    {"action": "answer", "answer": "the right answer"},
)
_TEXT = {"settle": None, "hint": "text", "answer": "answer"}


def person_steps(settings: Settings, state: DeliberationState) -> Steps[Command[NextOfPerson]]:
    """Wait for a person's reply. Then end, or go on for one more round with the hint."""
    action, text = _wait_for_reply(settings, state)
    clock = read_clock(state)
    intervention = Intervention(
        action=action,
        round=state["round"] + (action == "hint"),
        text=text,
        seconds=clock["paused"] - state["clock"]["paused"],
    )
    state = cast(
        DeliberationState,
        {**state, "clock": clock, "interventions": [*state["interventions"], intervention]},
    )
    header = state["header"]
    events.emit_intervention(header["id"], intervention)
    update: dict[str, Any] = {"interventions": state["interventions"]}
    if action == "hint":
        return Command(update={**update, "phase": "decide", **clock_update(clock)}, goto="router")
    if action == "answer":
        state["header"] = update["header"] = Header({**header, "reference": text})
    update |= yield from finish(settings, state, state["stopped"])
    return Command(update=update, goto="__end__")


def _wait_for_reply(
    settings: Settings, state: DeliberationState
) -> tuple[Literal["settle", "hint", "answer"], str]:
    """Ask until the reply can be read. Return its action and its text."""
    asked: dict[str, Any] = {
        **describe_standing(settings, state, state["stopped"]),
        "replies": [dict(reply) for reply in REPLIES],
    }
    while True:
        given = interrupt(asked)
        action = given.get("action") if isinstance(given, dict) else None
        key = _TEXT.get(action) if isinstance(action, str) else None
        text = writable(given[key]).strip() if key and isinstance(given.get(key), str) else ""
        if action == "settle" or text:
            return cast(Any, action), text
        forms = ", ".join(map(str, REPLIES))
        asked = {**asked, "error": f"cannot read {given!r:.80}: reply with one of {forms}"}


def check_checkpointer(settings: Settings, config: RunnableConfig) -> None:
    """Check that an interrupted run could be resumed, before any model is called.

    Raises:
        ConfigurationError: A person may be asked, but the graph has no checkpointer.
    """
    # Only this key shows a node the checkpointer. `Runtime` does not, and its thread_id exists
    # without one too. If LangGraph drops the key, nothing is refused.
    checkpointer = config.get("configurable", {}).get(CONFIG_KEY_CHECKPOINTER, True)
    if settings.interrupt_when is not None and checkpointer is None:
        raise ConfigurationError(
            "interrupt_when needs a checkpointer to wait with: compile the graph (or the graph "
            "around it) with one, e.g. .compile(checkpointer=InMemorySaver()), and invoke it "
            'with {"configurable": {"thread_id": ...}}'
        )
