"""What a caller gets back: the final message and the outcome as a plain dict."""

import time
from typing import Any

from langchain_core.messages import AIMessage

from mpdf_langgraph.budget import is_alternative, spent
from mpdf_langgraph.state import DeliberationState, Usage, add_usage, charged, no_usage, tokens

NO_ANSWER = "The agents reached no answer."


def usage_summary(state: DeliberationState) -> dict[str, Any]:
    """Return what the deliberation cost: in total, per agent, critic and round.

    `alternatives` (drawn only to learn from) are counted apart; `overshoot_calls` and
    `overshoot_tokens` are what was spent beyond the budget because it could not be known before:
    by chains, graphs and judges that make calls of their own, or without a largest output.
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
        if failure["stage"] != "alternative":
            charge(failure["agent"], failure["round"], failure["usage"], no_usage())
    total = spent(state)
    limits = state["header"]["options"]
    max_calls, max_tokens = limits["max_calls"], limits["max_tokens"]
    return {
        "total": {**total, "tokens": tokens(total)},
        "agents": agents,
        "critic": critic,
        "judge": state["judge_usage"],
        "rounds": rounds,
        "alternatives": spent(state, alternatives=True),
        "overshoot_calls": 0 if max_calls is None else max(0, total["calls"] - max_calls),
        "overshoot_tokens": 0 if max_tokens is None else max(0, charged(total) - max_tokens),
    }


def outcome_of(state: DeliberationState, stop_reason: str) -> dict[str, Any]:
    """Return the `deliberation` entry of the graph's output.

    `confidence` is the critic's for the response that stands for the group's answer; `support`
    is the share of valid votes for it; `rounds` counts rounds of decisions.
    """
    tally = state["tallies"][-1]
    winner = state["responses"][tally["response"]] if tally["response"] else None
    critique = winner["critique"] if winner else None
    answers = state["representatives"]
    return {
        "episode": state["header"]["id"],
        "answer": tally["answer"],
        "confidence": critique["confidence"] if critique else None,
        "support": tally["support"],
        "tie": tally["tie"],
        "votes": {
            agent: None if cluster is None else answers[cluster]
            for agent, cluster in tally["votes"].items()
        },
        "agent": winner["agent"] if winner else None,
        "rounds": state["round"],
        "actions": [f"{t['agent']}@{t['round']}: {t['action']}" for t in state["turns"]],
        "stop_reason": stop_reason,
        "seconds": max(0.0, time.time() - state["header"]["started"]),
        "usage": usage_summary(state),
        "failures": [
            f"{f['agent']}@{f['round']} {f['stage']}: {f['error']}" for f in state["failures"]
        ],
    }


def final_message(state: DeliberationState) -> AIMessage:
    """Return the winning response as a message from the graph.

    It carries no usage of its own: the agents' calls have reported theirs already.
    """
    chosen = state["tallies"][-1]["response"]
    text = state["responses"][chosen]["text"] if chosen else NO_ANSWER
    header = state["header"]
    return AIMessage(text, name=header["graph"], id=f"deliberation-{header['id']}")
