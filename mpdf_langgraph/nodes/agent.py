"""The `agent` node: it proposes and refines.

It is a generator of calls, so the graph can run it synchronously and asynchronously.
"""

from dataclasses import replace
from typing import Any, Literal, cast

from langgraph.types import Command, Send

from mpdf_langgraph.answers.schema import schema_for
from mpdf_langgraph.critic import function_runnable
from mpdf_langgraph.errors import ConfigurationError, describe_error
from mpdf_langgraph.history import unreadable_kinds
from mpdf_langgraph.nodes.critic import criticise
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.nodes.task import (
    Stage,
    move_cost,
    opening_messages,
    refine_messages,
    reserved_cost,
    resume_task,
    task_failure,
    trace_labels,
)
from mpdf_langgraph.replies import response_from
from mpdf_langgraph.runtime import events
from mpdf_langgraph.runtime.budget import (
    count_affordable,
    remaining_allowance,
)
from mpdf_langgraph.runtime.calls import Call, Steps
from mpdf_langgraph.runtime.clock import clock_update
from mpdf_langgraph.state import (
    Assignment,
    Failure,
    Response,
    add_usage,
    no_usage,
)


def read_context(value: Any) -> str:
    """Return the result of an agent's `context` as text. Of documents, only the content counts."""
    if value is None or isinstance(value, str):
        return value or ""
    items = value if isinstance(value, list | tuple) else [value]
    parts = [getattr(item, "page_content", item) for item in items]
    if not all(isinstance(part, str) for part in parts):
        raise ConfigurationError(
            f"context must return text or documents, got {type(value).__name__}: {value!r:.80}"
        )
    return "\n\n".join(str(part) for part in parts)


def _cannot_read(kinds: list[str]) -> str:
    flags = ", ".join(f'"{kind}_inputs": True' for kind in kinds)
    return (
        f"not asked: the question holds {' and '.join(kinds)} content, which the model does not "
        f"take, as its profile says. Ask in text, use another model, or correct the profile: "
        f"profile={{{flags}}}"
    )


def agent_steps(
    settings: Settings, task: Assignment
) -> Steps[Command[Literal["critic", "consensus"]]]:
    """Propose (round 0) or refine, and draw the alternatives. Then go on.

    The way leads to a critic that asks somebody, else to the consensus.
    """
    task = resume_task(task)
    agent, name, round_ = settings.agents[task["agent"]], task["agent"], task["round"]
    stage: Stage = "propose" if round_ == 0 else "refine"
    failures: list[Failure] = []
    update: dict[str, Any] = {}
    deadline = task["allowance"]["deadline"]
    retrieval = no_usage()  # of models that `context` calls, charged to the first call after it

    if unread := unreadable_kinds(agent.chat_model, task.get("attachments", [])):
        failures.append(task_failure(task, stage, _cannot_read(unread)))
        task = Assignment({**task, "act": False, "alternatives": 0})
    elif task["notes"] is None and agent.context is not None:
        retrieve = function_runnable(agent.context) if callable(agent.context) else agent.context
        labels = trace_labels("context", task, silent=True)
        [outcome] = yield [
            Call(
                retrieve,
                task["question"],
                read_context,
                labels,
                retries=agent.retries,
                is_model=False,
                deadline=deadline,
            )
        ]
        if outcome.cause is None:
            task = Assignment({**task, "notes": outcome.value})
            update["notes"] = {name: outcome.value}
            retrieval = outcome.usage
        else:  # without its context the agent would answer another question
            failures.append(task_failure(task, "context", str(outcome.error), outcome))
            task = Assignment({**task, "act": False, "alternatives": 0})

    schema = schema_for(settings.answer, task["question"])
    response_schema = getattr(schema, "response_schema", None)
    messages = [*opening_messages(settings, task), *refine_messages(settings, task)]
    ids: list[tuple[str, Stage]] = []
    calls = []
    if task["act"]:
        cost = reserved_cost(settings, task)
        allowance = remaining_allowance(task["allowance"], retrieval)
        times = count_affordable(allowance, cost)
        if times:
            labels = trace_labels(stage, task, silent=False)
            ids.append((f"{name}@{round_}", stage))
            calls.append(
                agent.call(
                    messages,
                    refine=round_ > 0,
                    retries=times - 1,
                    bound=lambda: move_cost(settings, task).tokens,
                    deadline=deadline,
                    config=labels,
                    calls=allowance["calls"],
                    response_schema=response_schema,
                )
            )
        else:
            error = (
                f"not started: it may take {cost.calls} call(s) and {cost.tokens} tokens, more "
                "than the budget has left"
            )
            failures.append(Failure({**task_failure(task, stage, error), "usage": retrieval}))
    for k in range(1, task["alternatives"] + 1):
        labels = trace_labels("alternative", task, silent=True)
        ids.append((f"{name}@{round_}+{k}", "alternative"))
        calls.append(
            agent.call(
                messages,
                refine=True,
                retries=agent.retries,
                bound=0,  # outside the budget
                deadline=deadline,
                config=labels,
                response_schema=response_schema,
            )
        )

    drawn: list[Response] = []
    outcomes = (yield calls) if calls else []
    if ids and (ids[0][1] != "alternative" or not task["act"]):  # else a failure has it
        outcomes[0] = replace(outcomes[0], usage=add_usage(retrieval, outcomes[0].usage))
    for (response_id, kind), outcome in zip(ids, outcomes, strict=True):
        if outcome.cause is not None:
            failures.append(task_failure(task, kind, str(outcome.error), outcome))
            continue
        try:
            response = response_from(
                outcome, response_id=response_id, agent=name, round_=round_, schema=schema
            )
        except Exception as error:  # of a schema of one's own: the other responses must not be lost
            message = f"its answer could not be read: {describe_error(error)}"
            failures.append(task_failure(task, kind, message, outcome))
            continue
        drawn.append(response)
        if kind != "alternative":
            events.emit_response(task["episode"], response)
    for failure in failures:
        events.emit_failure(task["episode"], failure)
    responses = {r["id"]: r for r in drawn}
    task = Assignment({**task, "drawn": drawn})
    if not settings.asks_critic:
        judged, errors = yield from criticise(settings, task, messages)
        responses |= judged
        failures += errors
    time = clock_update(task["clock"])
    update |= {"responses": responses, "failures": failures, **time}
    # For all agents alike: if one went ahead, the consensus would not wait for the others.
    goto: Literal["consensus"] | Send = "consensus"
    if settings.asks_critic:
        goto = Send("critic", cast(Assignment, {**task, **time}))
    return Command(update=update, goto=goto)
