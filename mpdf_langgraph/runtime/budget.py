"""Hard budgets per question: what is left, what a call may cost, and who may spend it.

The router gives every task its own `Allowance`, so concurrent tasks never spend the same token
twice. A resumed run computes the same figures from the records.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from mpdf_langgraph.frames import break_template_tokens
from mpdf_langgraph.options import check_number
from mpdf_langgraph.state import (
    Allowance,
    DeliberationState,
    Response,
    Usage,
    add_usage,
    charged_tokens,
    no_usage,
)

#: Room for what a chat template adds: once a prompt, and once a message.
TEMPLATE_TOKENS = 48
MESSAGE_TOKENS = 16
#: What the limit of a request's output is called. The last is the name of Google's models.
OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True)
class Budget:
    """Limits of one question. None: no limit.

    Attributes:
        max_calls: LLM calls, the critic's and failed ones included.
        max_tokens: Prompt plus completion tokens, the critic's included.
        timeout: Seconds since the question arrived.
        max_cost: Tokens as in `max_tokens`, each counted as often as its agent's `price` says.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_calls", "max_tokens", "timeout", "max_cost"):
            whole = name in ("max_calls", "max_tokens")
            check_number(name, getattr(self, name), 0, above=True, whole=whole, optional=True)

    @property
    def counts(self) -> bool:
        """Calls or tokens are limited, so it matters beforehand what a call may cost."""
        return any(most is not None for most in (self.max_calls, self.max_tokens, self.max_cost))


@dataclass(frozen=True)
class Cost:
    """An upper bound on what one move takes: the agent's call and its critique.

    Attributes:
        price: Of each token, for `Budget.max_cost`.
    """

    calls: int
    tokens: int
    price: float = 1.0


def is_alternative(response: Response) -> bool:
    """Tell whether a response was drawn only to learn from."""
    return "+" in response["id"]


def total_usage(state: DeliberationState, *, alternatives: bool = False) -> Usage:
    """Return what the deliberation cost so far, or what its alternatives cost."""
    usages = [] if alternatives else [state["judge_usage"]]
    for response in state["responses"].values():
        if is_alternative(response) is alternatives:
            usages.append(response["usage"])
            if response["critique"]:
                usages.append(response["critique"]["usage"])
    usages += [
        failure["usage"]
        for failure in state["failures"]
        if (failure["stage"] == "alternative") is alternatives
    ]
    return add_usage(no_usage(), *usages)


def prices_of(agents: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the price of a token by agent, from the agents' descriptions."""
    return {agent["name"]: float(agent.get("price", 1.0)) for agent in agents}


def total_cost(state: DeliberationState) -> float:
    """Return what the deliberation cost so far, in tokens that count as often as their price."""
    prices = prices_of(state["header"]["agents"])
    cost = float(charged_tokens(state["judge_usage"]))
    for response in state["responses"].values():
        if not is_alternative(response):
            critique = response["critique"]["usage"] if response["critique"] else no_usage()
            spent = charged_tokens(response["usage"]) + charged_tokens(critique)
            cost += prices[response["agent"]] * spent
    for failure in state["failures"]:
        if failure["stage"] != "alternative":
            cost += prices.get(failure["agent"], 1.0) * charged_tokens(failure["usage"])
    return cost


def output_limit(*told: Mapping[str, Any]) -> int | None:
    """Return the largest limit of the output that a request is told, None if there is none.

    Example:
        >>> output_limit({"max_tokens": 500, "max_completion_tokens": 40}, {})
        500
    """
    values = [settings.get(key) for settings in told for key in OUTPUT_LIMITS]
    whole = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
    return max(whole, default=None)


def text_bound(text: str) -> int:
    """Return an upper bound on a text's tokens: a token has at least one byte."""
    return len(text.encode("utf-8", "replace"))


def prompt_bound(messages: Sequence[BaseMessage]) -> int:
    """Return an upper bound on the tokens of a prompt that was not measured yet.

    It counts text and tool calls. It cannot count images, as each model has its own rule.
    """
    return TEMPLATE_TOKENS + sum(
        MESSAGE_TOKENS + text_bound(str(m.text)) + text_bound(_tool_calls(m)) for m in messages
    )


def _tool_calls(message: BaseMessage) -> str:
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return json.dumps(calls, default=str) if calls else ""


def response_bound(response: Response, model: str | None) -> int:
    """Return an upper bound on a response's tokens inside the prompt of `model`.

    It is known if the same model generated the response in one call. Else its bytes are counted.
    """
    usage = response["usage"]
    measured = usage["calls"] == 1 and not usage["unreported"] and usage["completion_tokens"]
    broken = break_template_tokens(response["text"])
    bound = text_bound(broken)
    if broken != response["text"]:  # it is more tokens then
        return bound
    if measured and model is not None and response["model"] == model:
        return min(bound, usage["completion_tokens"])
    return bound


class BudgetShares:
    """What is left of a budget while the router gives shares of it to the agents, one by one."""

    def __init__(self, budget: Budget, used: Usage, started: float, cost: float = 0.0) -> None:
        self._calls = None if budget.max_calls is None else budget.max_calls - used["calls"]
        self._tokens = (
            None if budget.max_tokens is None else budget.max_tokens - charged_tokens(used)
        )
        self._cost = None if budget.max_cost is None else budget.max_cost - cost
        self._deadline = None if budget.timeout is None else started + budget.timeout
        self._reserved: list[Cost] = []

    def lacks(self, cost: Cost, now: float) -> str | None:
        """Return the name of the limit that forbids `cost`, None where it fits."""
        if self._deadline is not None and now >= self._deadline:
            return "timeout"
        if self._calls is not None and cost.calls > self._calls:
            return "max_calls"
        if self._tokens is not None and cost.tokens > self._tokens:
            return "max_tokens"
        if self._cost is not None and cost.tokens * cost.price > self._cost:
            return "max_cost"
        return None

    def reserve(self, cost: Cost) -> None:
        """Set `cost` aside."""
        self._reserved.append(cost)
        if self._calls is not None:
            self._calls -= cost.calls
        if self._tokens is not None:
            self._tokens -= cost.tokens
        if self._cost is not None:
            self._cost -= cost.tokens * cost.price

    def allowances(self) -> Iterable[Allowance]:
        """Yield each reservation plus an equal share of the rest, in order of reservation."""
        heads = max(1, len(self._reserved))
        for cost in self._reserved:
            limits = [] if self._tokens is None else [cost.tokens + self._tokens // heads]
            if self._cost is not None and cost.price > 0:
                most = self._cost / heads / cost.price
                limits += [cost.tokens + int(most)] if math.isfinite(most) else []
            yield Allowance(
                calls=None if self._calls is None else cost.calls + self._calls // heads,
                tokens=min(limits, default=None),
                deadline=self._deadline,
            )


def remaining_allowance(allowance: Allowance, used: Usage) -> Allowance:
    """Return what is left of an allowance."""
    return Allowance(
        calls=None if allowance["calls"] is None else allowance["calls"] - used["calls"],
        tokens=None if allowance["tokens"] is None else allowance["tokens"] - charged_tokens(used),
        deadline=allowance["deadline"],
    )


def count_affordable(allowance: Allowance, cost: Cost) -> int:
    """Return how many times `cost` fits into an allowance, at most a million."""
    times = 1_000_000
    if allowance["calls"] is not None:
        if cost.calls > 0:
            times = min(times, allowance["calls"] // cost.calls)
        else:  # a move without a call fits at least once
            times = min(times, max(1, allowance["calls"]))
    if allowance["tokens"] is not None:
        if cost.tokens > 0:
            times = min(times, allowance["tokens"] // cost.tokens)
        elif allowance["tokens"] < 0:
            return 0
    return max(0, times)
