"""What a caller gets back: the final message and the outcome as a plain dict."""

import time
import warnings
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig

from mpdf_langgraph.answers.structured_answer import StructuredAnswer
from mpdf_langgraph.nodes.question import ANSWER
from mpdf_langgraph.nodes.saving import count_saved_calls
from mpdf_langgraph.nodes.settings import EpisodeSink, Settings
from mpdf_langgraph.rounds import confidence_of
from mpdf_langgraph.runtime.budget import is_alternative, total_cost, total_usage
from mpdf_langgraph.runtime.calls import Call, Steps, threaded_runnable
from mpdf_langgraph.runtime.clock import clock_update, started_at
from mpdf_langgraph.state import (
    DeliberationState,
    Usage,
    add_usage,
    charged_tokens,
    held_responses,
    no_usage,
    tokens,
)

NO_ANSWER = "The agents reached no answer."


def usage_summary(state: DeliberationState) -> dict[str, Any]:
    """Return what the deliberation cost: in total, per agent, critic and round.

    `cost` is the tokens, each counted as often as its agent's price says, estimates included.
    `alternatives` (drawn only to learn from) are counted apart. `overshoot_calls` and
    `overshoot_tokens` are what was spent beyond the budget, as it could not be known before: by
    chains, graphs and judges that make calls of their own, or by models without a largest output.
    """
    agents = {agent["name"]: no_usage() for agent in state["header"]["agents"]}
    rounds = [no_usage() for _ in range(state["round"] + 1)]
    critic = no_usage()

    def charge(agent: str, round_: int, usage: Usage, critique: Usage) -> None:
        nonlocal critic
        agents[agent] = add_usage(agents[agent], usage)
        critic = add_usage(critic, critique)
        rounds[round_] = add_usage(rounds[round_], usage, critique)

    for response in state["responses"].values():
        if not is_alternative(response):
            critique = response["critique"]["usage"] if response["critique"] else no_usage()
            charge(response["agent"], response["round"], response["usage"], critique)
    for failure in state["failures"]:
        if failure["stage"] not in ("alternative", "compare"):
            charge(failure["agent"], failure["round"], failure["usage"], no_usage())
    total = total_usage(state)
    limits = state["header"]["options"]
    max_calls, max_tokens = limits["max_calls"], limits["max_tokens"]
    return {
        "total": {**total, "tokens": tokens(total)},
        "cost": total_cost(state),
        "agents": agents,
        "critic": critic,
        "judge": state["judge_usage"],
        "rounds": rounds,
        "alternatives": total_usage(state, alternatives=True),
        "overshoot_calls": 0 if max_calls is None else max(0, total["calls"] - max_calls),
        "overshoot_tokens": 0 if max_tokens is None else max(0, charged_tokens(total) - max_tokens),
    }


def describe_outcome(
    state: DeliberationState, stop_reason: str, voted: str | None = None
) -> dict[str, Any]:
    """Return the `deliberation` entry of the graph's output.

    `voted` is the answer of a vote field by field. It has no agent and no confidence, unless
    somebody gave it as a whole.

    `name` is the graph's name. `merge_deliberations` tells several outcomes apart by it.
    `confidence` is the consensus rule's P(right) of the group's answer, if the rule gives one. Else
    it is that of the response that stands for the answer: with a calibration the probability that
    the answer is right, else as the critic gave it. `accepted` tells whether the answer reaches the
    bar of `risk`. It is None without `risk`. `support` is the share of valid votes for the answer.
    `rounds` counts rounds of decisions. `seconds` leaves out pauses. If a person named the answer,
    `answer` is theirs, without an agent and a confidence, and `votes`, `support` and `tie` stay the
    group's. `person` is the last action of a person.
    """
    tally = state["tallies"][-1]
    winner = state["responses"][tally["response"]] if tally["response"] else None
    answers = state["representatives"]
    named, said = _answer_of_person(state), [i["action"] for i in state["interventions"]]
    answer = tally["answer"] if voted is None else voted
    if named is not None or answer != tally["answer"]:
        winner = None
    confidence = confidence_of(winner) if winner else None
    if winner and "probability" in tally:
        confidence = tally["probability"]
    accepted = _is_accepted(state, confidence)
    if named is not None and accepted is not None:
        accepted = True  # a person vouches for it
    return {
        "episode": state["header"]["id"],
        "name": state["header"]["graph"],
        "answer": answer if named is None else named,
        "confidence": confidence,
        "accepted": accepted,
        "support": tally["support"],
        "tie": tally["tie"],
        "votes": {
            agent: None if cluster is None else answers[cluster]
            for agent, cluster in tally["votes"].items()
        },
        "agent": winner["agent"] if winner else None,
        "rounds": state["round"],
        "not_asked": state["recruits"][-1]["waiting"] if state["recruits"] else [],
        "actions": [f"{t['agent']}@{t['round']}: {t['action']}" for t in state["turns"]],
        "stop_reason": stop_reason,
        "person": next((action for action in reversed(said) if action != "force"), None),
        "started": state["header"]["started"],
        "seconds": max(0.0, time.time() - started_at(state)),
        "usage": usage_summary(state),
        "failures": [
            f"{f['agent']}@{f['round']} {f['stage']}: {f['error']}" for f in state["failures"]
        ],
    }


def _is_accepted(state: DeliberationState, confidence: float | None) -> bool | None:
    """Tell whether an answer this probable reaches the bar of `risk`. None without `risk`."""
    options = state["header"]["options"]
    if "risk" not in options:
        return None
    bar = options["bar"]
    return bar is not None and confidence is not None and confidence >= bar


def merge_deliberations(
    left: Mapping[str, Any] | None, right: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Gather the outcomes of several deliberations in one graph, by their names (reducer).

    For the state of a graph in which more than one deliberation runs, side by side or one after
    the other. Give each its own ``name=``: a later outcome replaces an earlier one of its name.

    Args:
        left: What was gathered so far.
        right: An outcome (`deliberation` in a graph's output), or several by name.

    Warns:
        RuntimeWarning: Two of one name ran at the same time, and one outcome is lost.

    Example:
        ```python
        class State(MessagesState):
            deliberation: Annotated[dict, merge_deliberations]
        ```
    """
    gathered, new = dict(left or {}), dict(right or {})
    is_outcome = isinstance(new.get("episode"), str)  # and no graph of that name
    for name, outcome in {new["name"]: new}.items() if is_outcome else new.items():
        pair = (gathered.get(name, outcome), outcome)
        first, second = sorted(pair, key=lambda one: float(one["started"]))
        at_once = second["started"] < first["started"] + first["seconds"]
        if at_once and first["episode"] != second["episode"]:
            warnings.warn(
                f"two deliberations named {name!r} ran side by side, and the outcome of one is "
                "lost: give each its own name=",
                RuntimeWarning,
                stacklevel=2,
            )
        gathered[name] = outcome
    return gathered


def final_message(state: DeliberationState, voted: str | None = None) -> AIMessage:
    """Return the winning response, or the answer that a person named, as the graph's message.

    It has no usage of its own, as the agents' calls have reported theirs.

    Args:
        state: A finished deliberation.
        voted: The answer of a vote field by field, which nobody may have given as a whole.
    """
    chosen = state["tallies"][-1]["response"]
    text = state["responses"][chosen]["text"] if chosen else NO_ANSWER
    text = _answer_of_person(state) or voted or text
    header = state["header"]
    return AIMessage(text, name=header["graph"], id=f"{ANSWER}{header['id']}")


def _answer_of_person(state: DeliberationState) -> str | None:
    """Return the answer that a person named, None if none did."""
    last = state["interventions"][-1:]
    return last[0]["text"] if last and last[0]["action"] == "answer" else None


def _vote_by_field(settings: Settings, state: DeliberationState) -> str | None:
    """Return the answer of a vote field by field.

    Return None if whole answers decide, or if the consensus rule elects none.
    """
    schema, tally = settings.answer, state["tallies"][-1]
    if not isinstance(schema, StructuredAnswer) or not schema.by_field:
        return None
    if tally["cluster"] is None or _answer_of_person(state):
        return None
    answers = state["representatives"]
    votes = [(a, answers[c]) for a, c in tally["votes"].items() if c is not None]
    return schema.combine([(answer, tally["weights"][agent]) for agent, answer in votes])


def describe_standing(
    settings: Settings, state: DeliberationState, stop_reason: str
) -> dict[str, Any]:
    """Return the state of a deliberation that would end now, as plain data for a person.

    It has `question`, and `episode`, `answer`, `confidence`, `accepted`, `support`, `tie`, `votes`,
    `agent`, `rounds` and `stop_reason` as in the outcome. `responses` has the `text`, `answer` and
    `confidence` of the response that each agent holds, or None, by agent name.
    """
    outcome = describe_outcome(state, stop_reason, _vote_by_field(settings, state))
    keys = (
        "episode", "answer", "confidence", "accepted", "support", "tie", "votes", "agent", "rounds",
        "stop_reason",
    )  # fmt: skip
    responses = {
        name: response
        and {
            "text": response["text"],
            "answer": response["answer"],
            "confidence": confidence_of(response),
        }
        for name, response in held_responses(state).items()
    }
    shown = {key: outcome[key] for key in keys}
    return {"question": state["header"]["question"], **shown, "responses": responses}


def finish(settings: Settings, state: DeliberationState, stop_reason: str) -> Steps[dict[str, Any]]:
    """Write the trace of a finished deliberation. Return the state update that ends it."""
    voted = _vote_by_field(settings, state)
    state["deliberation"] = describe_outcome(state, stop_reason, voted)
    state["deliberation"]["usage"]["saved_calls"] = count_saved_calls(settings, state)
    if settings.traces is not None:
        state["deliberation"] |= yield from _store(settings.traces, state)
    return {
        "deliberation": state["deliberation"],
        "messages": [final_message(state, voted)],
        **clock_update(state["clock"]),
    }


def _store(sink: EpisodeSink, state: DeliberationState) -> Steps[dict[str, str]]:
    """Write the trace. If that fails, warn, and return the error for the outcome."""
    write = threaded_runnable(lambda _: sink.write_state(state))
    labels = RunnableConfig(
        run_name="write trace", metadata={"mpdf_episode": state["header"]["id"]}
    )
    [outcome] = yield [Call(write, None, lambda value: value, labels, is_model=False)]
    if outcome.cause is None:
        return {}
    warnings.warn(f"the trace was not stored: {outcome.error}", RuntimeWarning, stacklevel=2)
    return {"trace_error": str(outcome.error)}
