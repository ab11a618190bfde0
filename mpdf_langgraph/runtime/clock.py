"""The clock of the time budget: it runs while a deliberation runs, not while it waits.

A deliberation stands still where a person is asked, at a breakpoint, or after its process was
killed. Within one run the channel `running` is set; it is never checkpointed, so that a step
which does not see it knows that it was resumed, and that the time since the last step ended was
a pause. An agent that was interrupted half-way begins anew: what it had taken is forgiven too.
"""

import time
from typing import Any

from mpdf_langgraph.state import Assignment, Clock, DeliberationState


def read_clock(work: DeliberationState | Assignment) -> Clock:
    """Return the clock at the start of a step, with the pause before it if there was one."""
    clock, now = work["clock"], time.time()
    pause = 0.0 if work.get("running") else max(0.0, now - clock["at"])
    return Clock(paused=clock["paused"] + pause, at=now)


def clock_update(clock: Clock) -> dict[str, Any]:
    """Return the state update with which a step ends."""
    return {"clock": Clock(paused=clock["paused"], at=time.time()), "running": True}


def started_at(state: DeliberationState) -> float:
    """Return when the question would have come, in epoch seconds, had nothing been paused."""
    return state["header"]["started"] + state["clock"]["paused"]
