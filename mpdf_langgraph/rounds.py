"""The `router` and `consensus` nodes: they start a question, decide, count votes and stop."""

import math
import time
import uuid
import warnings
from typing import Any, Literal, cast

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.types import Command, Overwrite, Send

from mpdf_langgraph import events
from mpdf_langgraph.answers import assign_clusters
from mpdf_langgraph.budget import Purse, spent
from mpdf_langgraph.calls import Call, Steps
from mpdf_langgraph.consensus import concession, count_votes
from mpdf_langgraph.errors import ConfigurationError, DeliberationError
from mpdf_langgraph.observation import Situation, observe
from mpdf_langgraph.outcome import final_message, outcome_of
from mpdf_langgraph.router import behaviour, checked_rows, competences, draw
from mpdf_langgraph.settings import EpisodeSink, Settings
from mpdf_langgraph.state import (
    Allowance,
    Assignment,
    Consensus,
    Critique,
    DeliberationState,
    Failure,
    Header,
    Response,
    Turn,
    add_usage,
    no_usage,
    tokens,
)
from mpdf_langgraph.tasks import move_cost

NextOfRouter = Literal["agent", "consensus"]
NextOfConsensus = Literal["router", "__end__"]
#: Identical proposals at least this likely under independent sampling get no warning.
LIKELY_COINCIDENCE = 0.01


# --- router ---------------------------------------------------------------------------------


def router_step(settings: Settings, state: DeliberationState) -> Command[NextOfRouter]:
    """Start a new question, or decide the next round of the standing one."""
    if state.get("phase") == "decide":
        return _decide(settings, state)
    return _start(settings, state)


def _asked(state: DeliberationState) -> tuple[str, list[BaseMessage], list[BaseMessage]]:
    """Return the question, the conversation before it, and messages to add for the record."""
    messages: list[BaseMessage] = list(state.get("messages") or [])
    if question := (state.get("question") or "").strip():
        return question, messages, [HumanMessage(question)]
    for index in range(len(messages) - 1, -1, -1):
        if isinstance(messages[index], HumanMessage):
            if question := str(messages[index].text).strip():
                return question, messages[:index], []
            break
    raise ConfigurationError(
        "nothing was asked: give a `question`, or `messages` with a human message that has text"
    )


def _start(settings: Settings, state: DeliberationState) -> Command[NextOfRouter]:
    question, history, added = _asked(state)
    contexts = dict(state.get("contexts") or {})
    if unknown := set(contexts) - set(settings.agents):
        raise ConfigurationError(
            f"contexts names {', '.join(sorted(unknown))}, but the agents are "
            f"{', '.join(settings.agents)}"
        )
    header = Header(
        id=uuid.uuid4().hex,
        started=time.time(),
        question=question,
        reference=state.get("reference"),
        history=cast(Any, history),
        graph=settings.name,
        agents=[agent.describe() for agent in settings.agents.values()],
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
    }
    blank = cast(DeliberationState, {**state, **fresh, "notes": contexts, "responses": {}})
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
    return Command(update=fresh, goto=_sends(tasks, purse))


def _assignment(settings: Settings, state: DeliberationState, name: str) -> Assignment:
    header, agent = state["header"], settings.agents[name]
    mine = [r for r in state["responses"].values() if r["agent"] == name]
    first = state["responses"].get(f"{name}@0")
    measured = first and first["usage"]["calls"] == 1 and not first["usage"]["unreported"]
    notes, timeout = state["notes"].get(name), settings.budget.timeout
    if notes is None and (agent.context is None or state["round"] > 0):
        notes = ""
    held = _held(state)
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
        largest_usage=max((r["usage"] for r in mine), key=tokens, default=no_usage()),
        allowance=Allowance(
            calls=None,
            tokens=None,
            deadline=None if timeout is None else header["started"] + timeout,
        ),
        drawn=[],
    )


def _held(state: DeliberationState) -> dict[str, Response | None]:
    return {
        agent: state["responses"][response_id] if response_id else None
        for agent, response_id in state["held"].items()
    }


def _sends(tasks: list[Assignment], purse: Purse) -> list[Send]:
    """Send each task off with its allowance; alternatives alone have but the deadline."""
    allowances = iter(purse.allowances())
    return [
        Send("agent", Assignment({**task, "allowance": next(allowances)}) if task["act"] else task)
        for task in tasks
    ]


def situation_of(state: DeliberationState) -> Situation:
    """Return what the observations of round ``state["round"]`` are computed from."""
    tallies = state["tallies"]
    return Situation(
        held=_held(state),
        previous=tallies[-2]["votes"] if len(tallies) > 1 else {},
        competence=competences(state["header"]["agents"]),
        round=state["round"],
        max_rounds=state["header"]["options"]["max_rounds"],
    )


def _decide(settings: Settings, state: DeliberationState) -> Command[NextOfRouter]:
    state = cast(DeliberationState, {**state, "round": state["round"] + 1})
    header, round_ = state["header"], state["round"]
    held = _held(state)
    observations = observe(situation_of(state))
    targets = {name: concession(held, name) for name in settings.agents}
    purse = Purse(settings.budget, spent(state), header["started"])
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
        action = draw(probabilities, f"{header['id']}/{round_}/{name}")
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
    update = {"round": round_, "turns": [*state["turns"], *turns]}
    goto: list[Send] | Literal["consensus"] = _sends(tasks, purse) if tasks else "consensus"
    return Command(update=update, goto=goto)


# --- consensus ------------------------------------------------------------------------------


def consensus_steps(
    settings: Settings, state: DeliberationState
) -> Steps[Command[NextOfConsensus]]:
    """Carry out the round's moves, count the votes, and end or ask for another round."""
    labels = RunnableConfig(run_name="compare answers", tags=["mpdf:judge", "nostream"])
    compare: Runnable[Any, Any] = RunnableLambda(lambda _: _clustered(settings, state))
    [outcome] = yield [Call(compare, None, lambda value: value, labels, is_model=False)]
    if outcome.cause is not None:
        raise outcome.cause
    responses, representatives = outcome.value
    state = cast(
        DeliberationState,
        {
            **state,
            "responses": {**state["responses"], **responses},
            "representatives": representatives,
            "judge_usage": add_usage(state["judge_usage"], outcome.usage),
        },
    )
    state["held"], turns, kept = _moves(state)
    state["turns"] = [*state["turns"][: len(state["turns"]) - len(turns)], *turns]
    state["failures"] = [*state["failures"], *kept]
    responses |= _agreement(state)
    state["responses"] = {**state["responses"], **responses}
    tally = count_votes(_held(state), settings.consensus, representatives)
    state["tallies"] = [*state["tallies"], tally]
    if state["round"] == 0:
        _warn_of_identical_proposals(state)

    stop_reason = _stop_reason(settings, state, tally)
    events.voted(state["header"]["id"], state["round"], tally, stop_reason)
    update: dict[str, Any] = {
        key: state[key] for key in ("representatives", "judge_usage", "held", "turns", "tallies")
    }
    update |= {"responses": responses, "failures": kept}
    if stop_reason is None:
        return Command(update={**update, "phase": "decide"}, goto="router")
    state["deliberation"] = outcome_of(state, stop_reason)
    if settings.traces is not None:
        yield from _store(settings.traces, state)
    if stop_reason == "failed":
        reasons = "; ".join(f"{f['agent']}: {f['error']}" for f in state["failures"])
        raise DeliberationError(f"every agent's proposal failed. {reasons}")
    update |= {"deliberation": state["deliberation"], "messages": [final_message(state)]}
    return Command(update=update, goto="__end__")


def _store(sink: EpisodeSink, state: DeliberationState) -> Steps[None]:
    """Write the trace; where that fails the answer is still given, with a warning."""
    write: Runnable[Any, Any] = RunnableLambda(lambda _: sink.write_state(state))
    labels = RunnableConfig(run_name="write trace")
    [outcome] = yield [Call(write, None, lambda value: value, labels, is_model=False)]
    if outcome.cause is not None:
        warnings.warn(f"the trace was not stored: {outcome.error}", stacklevel=2)


def _clustered(
    settings: Settings, state: DeliberationState
) -> tuple[dict[str, Response], list[str]]:
    """Give every new answer its cluster; return the changed responses and the representatives."""
    new = [
        response
        for response in state["responses"].values()
        if response["cluster"] is None and response["answer"] is not None
    ]
    labels, representatives = assign_clusters(
        [response["answer"] for response in new], state["representatives"], settings.answer
    )
    changed = {
        response["id"]: Response({**response, "cluster": label})
        for response, label in zip(new, labels, strict=True)
    }
    return changed, representatives


def _moves(
    state: DeliberationState,
) -> tuple[dict[str, str | None], list[Turn], list[Failure]]:
    """Return what each agent holds after the round, the completed turns, and useless REFINEs."""
    responses, round_ = state["responses"], state["round"]
    if round_ == 0:
        drawn = {name: f"{name}@0" for name in state["held"]}
        return {n: i if i in responses else None for n, i in drawn.items()}, [], []
    held, turns, failures = dict(state["held"]), [], []
    for turn in state["turns"]:
        if turn["round"] != round_:
            continue
        name = turn["agent"]
        if turn["action"] == "CONCEDE":
            held[name] = turn["target"]
        elif turn["action"] == "REFINE" and (new := responses.get(f"{name}@{round_}")):
            before = responses[turn["before"]] if turn["before"] else None
            if new["cluster"] is None and before is not None and before["cluster"] is not None:
                error = "no answer could be parsed; the agent keeps its response"
                failures.append(
                    Failure(
                        agent=name,
                        round=round_,
                        stage="refine",
                        error=error,
                        usage=no_usage(),
                        seconds=0.0,
                    )
                )
            else:
                held[name] = new["id"]
        turns.append(Turn({**turn, "after": held[name]}))
    return held, turns, failures


def _agreement(state: DeliberationState) -> dict[str, Response]:
    """Fill in confidences that nothing but agreement can give.

    The share of the samples at hand, the response itself included, that answer the same: its
    agent's peers' responses and itself.
    """
    held = _held(state)
    changed = {}
    for response in state["responses"].values():
        critique = response["critique"]
        if critique is None or critique["source"] != "agreement":
            continue
        if response["round"] != state["round"] or response["cluster"] is None:
            continue
        peers = [r["cluster"] for name, r in held.items() if r and name != response["agent"]]
        same = 1 + sum(cluster == response["cluster"] for cluster in peers)
        share = same / (1 + len(peers))
        filled = Critique({**critique, "confidence": share, "scores": {"agreement": share}})
        changed[response["id"]] = Response({**response, "critique": filled})
    return changed


def _warn_of_identical_proposals(state: DeliberationState) -> None:
    """Warn where all agents wrote the same text though independent samples hardly would."""
    proposals = [response for response in _held(state).values() if response]
    if len(proposals) < 2 or len({response["text"] for response in proposals}) > 1:
        return
    # Short, sure answers coincide honestly: the chance is p(text) for each agent but the first.
    logprobs = proposals[0]["logprobs"]
    if logprobs and math.exp(logprobs["total"] * (len(proposals) - 1)) > LIKELY_COINCIDENCE:
        return
    warnings.warn(
        f"all {len(proposals)} agents proposed the very same text, so there is nothing to "
        "deliberate: raise the sampling temperature, check for a cache in front of the "
        "model, or give the agents different information",
        stacklevel=2,
    )


def _stop_reason(settings: Settings, state: DeliberationState, tally: Consensus) -> str | None:
    """Return why to stop now; None to go on."""
    turns = [turn for turn in state["turns"] if turn["round"] == state["round"]]
    if not any(state["held"].values()):
        return "failed"
    if settings.stop_when_settled and _agreed(settings, state, tally):
        return "agreement"
    if turns and all(turn["blocked"] for turn in turns):
        return turns[0]["blocked"]
    if settings.stop_when_settled and turns and all(t["action"] == "PERSIST" for t in turns):
        return "all_persisted"
    timeout = settings.budget.timeout
    if timeout is not None and time.time() >= state["header"]["started"] + timeout:
        return "timeout"
    return "max_rounds" if state["round"] >= settings.max_rounds else None


def _agreed(settings: Settings, state: DeliberationState, tally: Consensus) -> bool:
    live = [r for r in _held(state).values() if r is not None and r["cluster"] is not None]
    if not live or any(response["cluster"] != tally["cluster"] for response in live):
        return False
    bar = settings.settle_confidence
    if bar is None:
        return True
    confidences = [r["critique"]["confidence"] if r["critique"] else None for r in live]
    return all(confidence is not None and confidence >= bar for confidence in confidences)
