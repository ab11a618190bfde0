"""The `agent` node, and the `critic` node behind it: the only places where models are called.

Both are generators of calls, so that the graph can run them synchronously and asynchronously.
"""

from dataclasses import replace
from typing import Any, Literal, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.types import Command, Send

from mpdf_langgraph import events
from mpdf_langgraph.agents import response_from
from mpdf_langgraph.budget import (
    Cost,
    affordable,
    prompt_bound,
    remaining,
    response_bound,
    text_bound,
)
from mpdf_langgraph.calls import Call, Outcome, Steps, together
from mpdf_langgraph.clock import read_clock, stamp
from mpdf_langgraph.critic import Subject, Verdict
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.settings import Settings
from mpdf_langgraph.state import (
    Allowance,
    Assignment,
    Failure,
    Response,
    add_usage,
    charged,
    no_usage,
)

Stage = Literal["context", "propose", "refine", "critique", "alternative"]


def _failure(task: Assignment, stage: Stage, error: str, outcome: Outcome | None = None) -> Failure:
    return Failure(
        agent=task["agent"],
        round=task["round"],
        stage=stage,
        error=error,
        usage=outcome.usage if outcome else no_usage(),
        seconds=outcome.seconds if outcome else 0.0,
    )


def _labels(stage: Stage, task: Assignment, *, silent: bool) -> RunnableConfig:
    """Run name, tags and metadata for tracing; `silent` keeps tokens out of message streams."""
    agent, round_ = task["agent"], task["round"]
    tags = [f"mpdf:{stage}", f"mpdf:agent:{agent}", f"mpdf:round:{round_}"]
    metadata = {
        "mpdf_episode": task["episode"],
        "mpdf_agent": agent,
        "mpdf_stage": stage,
        "mpdf_round": round_,
    }
    if round_ > 0:  # the router sends an agent off for nothing else; round 0 is no decision
        tags.append("mpdf:action:REFINE")
        metadata["mpdf_action"] = "REFINE"
    if silent:
        tags.append("nostream")
    return RunnableConfig(run_name=f"{agent} {stage}", tags=tags, metadata=metadata)


def _opening(settings: Settings, task: Assignment) -> list[BaseMessage]:
    agent = settings.agents[task["agent"]]
    return agent.conversation(
        task["question"],
        schema=settings.answer,
        history=task["history"],
        notes=task["notes"] or "",
    )


def _continuation(settings: Settings, task: Assignment) -> list[BaseMessage]:
    """The messages after the opening: none in round 0, the refine request later."""
    if task["round"] == 0:
        return []
    return settings.agents[task["agent"]].refine_turn(
        task["question"],
        schema=settings.answer,
        own=task["own"]["text"] if task["own"] else None,
        peers={name: response["text"] for name, response in task["peers"].items()},
        hints=task["hints"],
    )


def prompt_tokens(settings: Settings, task: Assignment) -> int:
    """Return an upper bound on the tokens of the prompt that `task` sends.

    The opening is measured once it has been sent; a response written by the same model has as
    many tokens as were generated; the rest is bounded by its bytes.
    """
    known = task["prefix_tokens"]
    if known is None:
        agent = settings.agents[task["agent"]]
        opening = prompt_bound(_opening(settings, task)) + agent.schema_bound()
    else:
        opening = known
    rest = _continuation(settings, task)
    if not rest:
        return opening
    model = task["own"]["model"] if task["own"] else None
    quoted = [*([task["own"]] if task["own"] else []), *task["peers"].values()]
    rendered = "\n".join(str(message.text) for message in rest)
    saved = sum(
        text_bound(r["text"]) - response_bound(r, model) for r in quoted if r["text"] in rendered
    )
    return opening + prompt_bound(rest) - saved


def move_cost(settings: Settings, task: Assignment) -> Cost:
    """Return an upper bound on what proposing or refining takes, the critique included.

    Where nothing limits the output, the largest one seen so far stands in for the limit; a
    chain or graph counts as its costliest run so far.
    """
    agent, critic = settings.agents[task["agent"]], settings.critic
    seen = task["largest_usage"]
    output = agent.largest_output(refine=task["round"] > 0)
    generated = seen["completion_tokens"] if output is None else output
    prompt = prompt_tokens(settings, task)
    cost = Cost(1, prompt + generated)
    if agent.chat_model is None:
        cost = Cost(max(1, seen["calls"]), max(cost.tokens, charged(seen)))
    judgements = 0 if critic is None else critic.max_calls(agent)
    if critic is None or not judgements:
        return cost
    asked = max(  # which of its prompts a critic uses is its own affair
        prompt_bound(agent.critique_turn(task["question"], "", reasoning=reasoning))
        for reasoning in (False, True)
    )
    judged = prompt + generated + asked + critic.max_tokens
    return Cost(cost.calls + judgements, cost.tokens + judged)


def read_context(value: Any) -> str:
    """Return what an agent's `context` gave as text; of documents, their contents alone."""
    if value is None or isinstance(value, str):
        return value or ""
    items = value if isinstance(value, list | tuple) else [value]
    parts = [getattr(item, "page_content", item) for item in items]
    if not all(isinstance(part, str) for part in parts):
        raise ConfigurationError(
            f"context must return text or documents, got {type(value).__name__}: {value!r:.80}"
        )
    return "\n\n".join(str(part) for part in parts)


def _resumed(task: Assignment) -> Assignment:
    """Return the task with its deadline moved by the pause before it, if there was one."""
    clock, allowance = read_clock(task), task["allowance"]
    if allowance["deadline"] is not None:
        moved = allowance["deadline"] + clock["paused"] - task["clock"]["paused"]
        allowance = Allowance({**allowance, "deadline": moved})
    return Assignment({**task, "clock": clock, "allowance": allowance})


def agent_steps(settings: Settings, task: Assignment) -> Steps[Command[Literal["critic"]]]:
    """Propose (round 0) or refine, and draw the alternatives; then go on to the critic."""
    task = _resumed(task)
    agent, name, round_ = settings.agents[task["agent"]], task["agent"], task["round"]
    stage: Stage = "propose" if round_ == 0 else "refine"
    failures: list[Failure] = []
    update: dict[str, Any] = {}
    deadline = task["allowance"]["deadline"]
    retrieval = no_usage()  # what `context` spent on models of its own, charged to the proposal

    if task["notes"] is None and agent.context is not None:
        retrieve = RunnableLambda(agent.context) if callable(agent.context) else agent.context
        labels = _labels("context", task, silent=True)
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
            failures.append(_failure(task, "context", str(outcome.error), outcome))
            task = Assignment({**task, "act": False, "alternatives": 0})

    messages = [*_opening(settings, task), *_continuation(settings, task)]
    ids: list[tuple[str, Stage]] = []
    calls = []
    if task["act"]:
        cost = move_cost(settings, task)
        allowance = remaining(task["allowance"], retrieval)
        times = affordable(allowance, cost)
        if times:
            labels = _labels(stage, task, silent=False)
            ids.append((f"{name}@{round_}", stage))
            calls.append(
                agent.call(
                    messages,
                    refine=round_ > 0,
                    retries=times - 1,
                    bound=cost.tokens,
                    deadline=deadline,
                    config=labels,
                    calls=allowance["calls"],
                )
            )
        else:
            error = (
                f"not started: it may take {cost.calls} call(s) and {cost.tokens} tokens, more "
                "than the budget has left"
            )
            failures.append(Failure({**_failure(task, stage, error), "usage": retrieval}))
    for k in range(1, task["alternatives"] + 1):
        labels = _labels("alternative", task, silent=True)
        ids.append((f"{name}@{round_}+{k}", "alternative"))
        calls.append(
            agent.call(
                messages,
                refine=True,
                retries=agent.retries,
                bound=0,  # outside the budget
                deadline=deadline,
                config=labels,
            )
        )

    drawn: list[Response] = []
    outcomes = (yield calls) if calls else []
    if ids and ids[0][1] != "alternative":
        outcomes[0] = replace(outcomes[0], usage=add_usage(retrieval, outcomes[0].usage))
    for (response_id, kind), outcome in zip(ids, outcomes, strict=True):
        if outcome.cause is not None:
            failures.append(_failure(task, kind, str(outcome.error), outcome))
            continue
        response = response_from(
            outcome, response_id=response_id, agent=name, round_=round_, schema=settings.answer
        )
        drawn.append(response)
        if kind != "alternative":
            events.responded(task["episode"], response)
    for failure in failures:
        events.failed(task["episode"], failure)
    time = stamp(task["clock"])
    update |= {"responses": {r["id"]: r for r in drawn}, "failures": failures, **time}
    sent = cast(Assignment, {**task, "drawn": drawn, **time})
    return Command(update=update, goto=Send("critic", sent))


def critic_steps(settings: Settings, task: Assignment) -> Steps[dict[str, Any]]:
    """Criticise what the agent task drew, each response in the context that produced it."""
    critic, task = settings.critic, _resumed(task)
    if critic is None or not task["drawn"]:
        return stamp(task["clock"])
    conversation = [*_opening(settings, task), *_continuation(settings, task)]
    unlimited = Allowance(calls=None, tokens=None, deadline=task["allowance"]["deadline"])
    followed = [r for r in task["drawn"] if "+" not in r["id"]]
    left = remaining(task["allowance"], add_usage(no_usage(), *(r["usage"] for r in followed)))
    parts = [
        critic.critique(
            Subject(
                question=task["question"],
                response=response,
                agent=settings.agents[task["agent"]],
                conversation=conversation,
                allowance=left if response in followed else unlimited,
                config=_labels("critique", task, silent=True),
            )
        )
        for response in task["drawn"]
    ]
    verdicts: list[Verdict] = yield from together(parts)
    responses: dict[str, Response] = {}
    failures: list[Failure] = []
    for response, verdict in zip(task["drawn"], verdicts, strict=True):
        criticised = Response({**response, "critique": verdict.critique})
        responses[response["id"]] = settings.calibrated(criticised)
        failures += [_failure(task, "critique", error) for error in verdict.errors]
        if response in followed:
            events.criticised(task["episode"], responses[response["id"]])
    for failure in failures:
        events.failed(task["episode"], failure)
    return {"responses": responses, "failures": failures, **stamp(task["clock"])}
