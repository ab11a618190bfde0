"""The clock of the time budget: it runs while a deliberation runs, not while it waits.

A deliberation pauses when a person is asked, at a breakpoint, or after its process was killed.
Within one run the channel `running` is set. It is never checkpointed. A step that does not see it
knows that the run was resumed, so the time since the last step ended was a pause. If an agent was
interrupted half-way, it starts again, and the time that it had taken counts as a pause too.
"""

import time
from typing import Any

from mpdf_langgraph.state import Assignment, Clock, DeliberationState


def read_clock(work: DeliberationState | Assignment) -> Clock:
    """Return the clock at the start of a step, which includes the pause before it."""
    clock, now = work["clock"], time.time()
    pause = 0.0 if work.get("running") else max(0.0, now - clock["at"])
    return Clock(paused=clock["paused"] + pause, at=now)


def clock_update(clock: Clock) -> dict[str, Any]:
    """Return the state update with which a step ends."""
    return {"clock": Clock(paused=clock["paused"], at=time.time()), "running": True}


def started_at(state: DeliberationState) -> float:
    """Return the start of the question in epoch seconds, moved later by all pauses."""
    return state["header"]["started"] + state["clock"]["paused"]
