"""The `critic` node: it criticises what an agent's task drew.

It is a generator of calls, so the graph can run it synchronously and asynchronously.
"""

from typing import Any

from langchain_core.messages import BaseMessage

from mpdf_langgraph.critic import CritiqueResult, Subject
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.nodes.task import (
    opening_messages,
    refine_messages,
    resume_task,
    task_failure,
    trace_labels,
)
from mpdf_langgraph.runtime import events
from mpdf_langgraph.runtime.budget import is_alternative, remaining_allowance
from mpdf_langgraph.runtime.calls import Steps, merge_steps
from mpdf_langgraph.runtime.clock import clock_update
from mpdf_langgraph.state import (
    Allowance,
    Assignment,
    Failure,
    Response,
    add_usage,
    no_usage,
)


def critic_steps(settings: Settings, task: Assignment) -> Steps[dict[str, Any]]:
    """Criticise what the agent task drew."""
    task = resume_task(task)
    conversation = [*opening_messages(settings, task), *refine_messages(settings, task)]
    responses, failures = yield from criticise(settings, task, conversation)
    return {"responses": responses, "failures": failures, **clock_update(task["clock"])}


def criticise(
    settings: Settings, task: Assignment, conversation: list[BaseMessage]
) -> Steps[tuple[dict[str, Response], list[Failure]]]:
    """Return the responses with a verdict on each, in the context that produced it, and failures.

    There are none without a critic.
    """
    critic = settings.critic
    if critic is None or not task["drawn"]:
        return {}, []
    unlimited = Allowance(calls=None, tokens=None, deadline=task["allowance"]["deadline"])
    followed = [r for r in task["drawn"] if not is_alternative(r)]
    left = remaining_allowance(
        task["allowance"], add_usage(no_usage(), *(r["usage"] for r in followed))
    )
    parts = [
        critic.critique(
            Subject(
                question=task["question"],
                response=response,
                agent=settings.agents[task["agent"]],
                conversation=conversation,
                allowance=left if response in followed else unlimited,
                config=trace_labels("critique", task, silent=True),
                attachments=task.get("attachments", []),
                scores_read=settings.reads_scores(task["round"]),
            )
        )
        for response in task["drawn"]
    ]
    verdicts: list[CritiqueResult] = yield from merge_steps(parts)
    responses: dict[str, Response] = {}
    failures: list[Failure] = []
    for response, verdict in zip(task["drawn"], verdicts, strict=True):
        criticised = Response({**response, "critique": verdict.critique})
        responses[response["id"]] = settings.calibrate(criticised)
        failures += [task_failure(task, "critique", error) for error in verdict.errors]
        if response in followed:
            events.emit_critique(task["episode"], responses[response["id"]])
    for failure in failures:
        events.emit_failure(task["episode"], failure)
    return responses, failures
