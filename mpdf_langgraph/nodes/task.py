"""An agent's task: what it is sent, its messages, an upper bound on its tokens, its labels."""

from typing import Literal

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Send

from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.runtime.budget import (
    BudgetShares,
    Cost,
    prompt_bound,
    response_bound,
    text_bound,
)
from mpdf_langgraph.runtime.calls import CallResult
from mpdf_langgraph.runtime.clock import clock_update, read_clock, started_at
from mpdf_langgraph.state import (
    Allowance,
    Assignment,
    DeliberationState,
    Failure,
    charged_tokens,
    held_responses,
    largest_usage,
    no_usage,
)

Stage = Literal["context", "propose", "refine", "critique", "alternative"]


def task_failure(
    task: Assignment, stage: Stage, error: str, outcome: CallResult | None = None
) -> Failure:
    """Return the record of something that went wrong in a task."""
    return Failure(
        agent=task["agent"],
        round=task["round"],
        stage=stage,
        error=error,
        usage=outcome.usage if outcome else no_usage(),
        seconds=outcome.seconds if outcome else 0.0,
    )


def trace_labels(stage: Stage, task: Assignment, *, silent: bool) -> RunnableConfig:
    """Return run name, tags and metadata for tracing. `silent` keeps tokens out of streams."""
    agent, round_ = task["agent"], task["round"]
    tags = [f"mpdf:{stage}", f"mpdf:agent:{agent}", f"mpdf:round:{round_}"]
    metadata = {
        "mpdf_episode": task["episode"],
        "mpdf_agent": agent,
        "mpdf_stage": stage,
        "mpdf_round": round_,
    }
    if round_ > 0:  # later rounds only refine, and round 0 has no decision
        tags.append("mpdf:action:REFINE")
        metadata["mpdf_action"] = "REFINE"
    if silent:
        tags.append("nostream")
    return RunnableConfig(run_name=f"{agent} {stage}", tags=tags, metadata=metadata)


def opening_messages(settings: Settings, task: Assignment) -> list[BaseMessage]:
    """Return the messages that ask for a proposal."""
    agent = settings.agents[task["agent"]]
    return agent.conversation(
        task["question"],
        schema=settings.answer,
        history=task["history"],
        notes=task["notes"] or "",
        attachments=task.get("attachments", []),
    )


def refine_messages(settings: Settings, task: Assignment) -> list[BaseMessage]:
    """Return the messages after the opening: none in round 0, the refine request later."""
    if task["round"] == 0:
        return []
    return settings.agents[task["agent"]].refine_turn(
        task["question"],
        schema=settings.answer,
        own=task["own"]["text"] if task["own"] else None,
        peers={name: response["text"] for name, response in task["peers"].items()},
        hints=task["hints"],
        private=bool(task["notes"]),
    )


def prompt_tokens(settings: Settings, task: Assignment) -> int:
    """Return an upper bound on the tokens of the prompt that `task` sends.

    The opening is known after it was sent once. A response that the same model wrote has as many
    tokens as were generated. The rest is bounded by its bytes.
    """
    known = task["prefix_tokens"]
    if known is None:
        agent = settings.agents[task["agent"]]
        opening = prompt_bound(opening_messages(settings, task)) + agent.schema_bound()
    else:
        opening = known
    rest = refine_messages(settings, task)
    if not rest:
        return opening
    model = task["own"]["model"] if task["own"] else None
    quoted = [*([task["own"]] if task["own"] else []), *task["peers"].values()]
    rendered, saved = "\n".join(str(message.text) for message in rest), 0
    # Each place in the prompt is one response. A long one may hold a short one.
    for response in sorted(quoted, key=lambda r: -len(r["text"])):
        if response["text"] and response["text"] in rendered:
            rendered = rendered.replace(response["text"], "\0", 1)
            saved += text_bound(response["text"]) - response_bound(response, model)
    return opening + prompt_bound(rest) - saved


def move_cost(settings: Settings, task: Assignment) -> Cost:
    """Return an upper bound on what proposing or refining takes, the critique included.

    If nothing limits the output, the largest one so far is used as the limit. A chain or graph
    counts as its most expensive run so far.
    """
    agent, critic = settings.agents[task["agent"]], settings.critic
    seen = task["largest_usage"]
    output = agent.largest_output(refine=task["round"] > 0)
    generated = seen["completion_tokens"] if output is None else output
    prompt = prompt_tokens(settings, task)
    cost = Cost(1, prompt + generated, agent.price)
    if agent.chat_model is None:
        tokens = max(cost.tokens, charged_tokens(seen))
        cost = Cost(max(1, seen["calls"]), tokens, agent.price)
    judgements = 0 if critic is None else critic.max_calls(agent)
    if critic is None or not judgements:
        return cost
    asked = max(  # the critic uses one of its prompts
        prompt_bound(agent.critique_turn(task["question"], "", reasoning=reasoning))
        for reasoning in (False, True)
    )
    judged = prompt + generated + asked + critic.max_tokens
    return Cost(cost.calls + judgements, cost.tokens + judged, agent.price)


def reserved_cost(settings: Settings, task: Assignment) -> Cost:
    """Return what a budget sets aside for a move: `move_cost`, or nothing where none counts it."""
    return move_cost(settings, task) if settings.budget.counts else Cost(0, 0)


def resume_task(task: Assignment) -> Assignment:
    """Return the task with its deadline moved by the pause before it, if there was one."""
    clock, allowance = read_clock(task), task["allowance"]
    if allowance["deadline"] is not None:
        moved = allowance["deadline"] + clock["paused"] - task["clock"]["paused"]
        allowance = Allowance({**allowance, "deadline": moved})
    return Assignment({**task, "clock": clock, "allowance": allowance})


def assign(settings: Settings, state: DeliberationState, name: str) -> Assignment:
    """Return the task of an agent as the state has it, without an allowance of its own yet."""
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
        attachments=header.get("attachments", []),
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
            deadline=None if timeout is None else started_at(state) + timeout,
        ),
        drawn=[],
        hints=[i["text"] for i in state["interventions"] if i["action"] == "hint"],
        clock=state["clock"],
    )


def send_tasks(tasks: list[Assignment], shares: BudgetShares) -> list[Send]:
    """Return the sends of all tasks with their allowances. Alternatives only have a deadline."""
    allowances = iter(shares.allowances())
    sends = []
    for task in tasks:
        allowance = next(allowances) if task["act"] else task["allowance"]
        sends.append(Send("agent", {**task, "allowance": allowance, **clock_update(task["clock"])}))
    return sends
