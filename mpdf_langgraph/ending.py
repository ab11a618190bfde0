"""How a deliberation ends: its outcome, its trace, its final message."""

import warnings
from typing import Any

from langchain_core.runnables import RunnableConfig

from mpdf_langgraph.calls import Call, Steps, in_a_thread
from mpdf_langgraph.clock import stamp
from mpdf_langgraph.outcome import final_message, outcome_of
from mpdf_langgraph.settings import EpisodeSink, Settings
from mpdf_langgraph.state import DeliberationState


def finish(settings: Settings, state: DeliberationState, stop_reason: str) -> Steps[dict[str, Any]]:
    """Write the trace of a finished deliberation; return the state update that ends it."""
    state["deliberation"] = outcome_of(state, stop_reason)
    if settings.traces is not None:
        state["deliberation"] |= yield from _store(settings.traces, state)
    return {
        "deliberation": state["deliberation"],
        "messages": [final_message(state)],
        **stamp(state["clock"]),
    }


def _store(sink: EpisodeSink, state: DeliberationState) -> Steps[dict[str, str]]:
    """Write the trace; where that fails the answer is still given, and says so."""
    write = in_a_thread(lambda _: sink.write_state(state))
    labels = RunnableConfig(
        run_name="write trace", metadata={"mpdf_episode": state["header"]["id"]}
    )
    [outcome] = yield [Call(write, None, lambda value: value, labels, is_model=False)]
    if outcome.cause is None:
        return {}
    warnings.warn(f"the trace was not stored: {outcome.error}", RuntimeWarning, stacklevel=2)
    return {"trace_error": str(outcome.error)}
