"""Verdicts: a probability asked of a critic, and read off its reply's tokens or words."""

import json
import math
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from mpdf_langgraph.answers.thoughts import split_thought
from mpdf_langgraph.errors import EndpointError, ModelOutputError
from mpdf_langgraph.prompts import STATE_PROBABILITY
from mpdf_langgraph.response_profile import logprob_summary, token_logprobs


class NoVerdictError(EndpointError):
    """The reply has log-probabilities, but none of yes or no. The question may be unusual."""


class UnreadableVerdictError(EndpointError):
    """The reply came, and holds neither log-probabilities nor a probability that can be read."""


_YES = {"yes", "ye", "y"}  # a tokenizer without "yes" spells it "y" + "es"
_NO = {"no", "n"}
_ENDS_WITH_VERDICT = re.compile(r"\b(yes|no)\W*\Z", re.IGNORECASE)
_BARE_NUMBER = re.compile(r"[\s\"'`*]*([0-9]*\.?[0-9]+)\s*(%?)[\s\"'`*.]*")
_AROUND_A_WORD = " \t\r\n▁Ġ\"'`*_.,:;!()[]"


def _spelling(token: Any) -> str:
    return str(token).strip(_AROUND_A_WORD).casefold()


def _top_probabilities(message: AIMessage) -> list[tuple[str, dict[str, float]]]:
    """Return, for every position, the written token and the probabilities of all candidates."""
    logprobs = message.response_metadata.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    positions = []
    for entry in content or []:
        if not isinstance(entry, Mapping):
            continue
        table: dict[str, float] = {}
        for alternative in entry.get("top_logprobs") or [entry]:
            if not isinstance(alternative, Mapping):
                continue
            value = alternative.get("logprob")
            if isinstance(value, int | float) and -1e6 < value < 0.01:
                spelling = _spelling(alternative.get("token", ""))
                table[spelling] = table.get(spelling, 0.0) + math.exp(min(value, 0.0))
        positions.append((_spelling(entry.get("token", "")), table))
    return positions


def yes_probability(message: Any) -> float:
    """Return P(yes) / (P(yes) + P(no)), each summed over all its spellings.

    Looks at the first position where either has any mass.

    Raises:
        NoVerdictError: The message has log-probabilities, but none of yes and no.
        UnreadableVerdictError: It has no usable ones.
    """
    tables = [t for _, t in _top_probabilities(message)] if isinstance(message, AIMessage) else []
    for table in tables:
        if (share := _share_of_yes(table)) is not None:
            return share
    if any(tables):
        raise NoVerdictError("neither yes nor no is among the likely words of the critic's reply")
    raise UnreadableVerdictError("no log-probability of yes or no in the critic's reply")


def discount_verdict(verdict: float, mean_logprob: float) -> float:
    """Return 1/2 + (verdict - 1/2) * exp(mean log-probability of the reasoning's tokens).

    A check that repeats a mistake gives it the same verdict as a right answer. The probability of
    its tokens is lower.
    """
    return 0.5 + (verdict - 0.5) * math.exp(mean_logprob)


def reasoned_yes_probability(message: Any) -> float:
    """Return the verdict of a reply that reasons first, discounted by how unsure it was.

    The verdict is P(yes) / (P(yes) + P(no)) if the reply ends with one of them. `discount_verdict`
    then applies the log-probabilities of all that it wrote.

    Raises:
        EndpointError: It does not end with yes or no, or has no log-probabilities.
    """
    answer = split_thought(message.text)[1] if isinstance(message, AIMessage) else ""
    if not _ENDS_WITH_VERDICT.search(answer):
        raise EndpointError("the critic's reply does not end with yes or no. It may have been cut")
    summary = logprob_summary(token_logprobs(message.response_metadata))
    for written, table in reversed(_top_probabilities(message)):
        if summary and written in _YES | _NO and (share := _share_of_yes(table)) is not None:
            return discount_verdict(share, summary["mean"])
    raise EndpointError("no log-probability of yes or no in the critic's reply")


def _share_of_yes(table: Mapping[str, float]) -> float | None:
    yes = sum(p for spelling, p in table.items() if spelling in _YES)
    no = sum(p for spelling, p in table.items() if spelling in _NO)
    return yes / (yes + no) if yes + no > 1e-9 else None


def stated_probability(message: Any) -> float:
    """Return the number in a ``{"probability": p}`` reply, or the number that is all of the reply.

    A percentage counts as a hundredth of its number.

    Raises:
        UnreadableVerdictError: It is not that, or p is not a number in [0, 1]. A model that does
            not keep to the schema of the request does not keep to it in a second try.
    """
    _, text = split_thought(str(message.text if isinstance(message, BaseMessage) else message))
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1])["probability"] if start >= 0 else text
        number = _BARE_NUMBER.fullmatch(value) if isinstance(value, str) else None
        if number is not None:
            value = float(number[1]) / (100 if number[2] else 1)
        elif start < 0:
            raise ValueError(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableVerdictError(f"expected a JSON probability, got {text[:80]!r}") from error
    try:
        return check_probability(value)
    except ModelOutputError as error:
        raise UnreadableVerdictError(str(error)) from error


def check_probability(value: Any) -> float:
    """Return `value` as a float.

    Raises:
        ModelOutputError: It is not a number in [0, 1].
    """
    number: Any = numbers.Real  # numpy's numbers are Real, too
    if isinstance(value, bool) or not isinstance(value, number):
        raise ModelOutputError(f"a confidence must be a number, got {value!r:.80}")
    if not 0.0 <= value <= 1.0:
        raise ModelOutputError(f"a confidence must be in [0, 1], got {value!r:.80}")
    return float(value)


@dataclass(frozen=True)
class VerdictRequest:
    """One way to ask for a verdict. If it does not work, the next one is tried."""

    source: str
    sampling: Mapping[str, Any]
    parse: Callable[[Any], float]
    prompt: str | None = None
    reasoning: bool = False


_VERDICT_SCHEMA = {
    "name": "verdict",
    "schema": {
        "type": "object",
        "properties": {"probability": {"type": "number", "minimum": 0, "maximum": 1}},
        "required": ["probability"],
        "additionalProperties": False,
    },
}
_LOGPROBS = {"temperature": 0.0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
# Both spellings, as a model that prefers one gives little probability to the other.
_CHOICE = {"structured_outputs": {"choice": ["yes", "no", "Yes", "No"]}}
# In the body, as the OpenAI client raises an error on a cut reply if it is an argument.
_JSON = {"response_format": {"type": "json_schema", "json_schema": _VERDICT_SCHEMA}}
_REQUESTS = (
    VerdictRequest(
        "self",
        {**_LOGPROBS, "extra_body": _CHOICE},
        yes_probability,
    ),
    VerdictRequest("self", _LOGPROBS, yes_probability),
    VerdictRequest(
        "self_json",
        {"temperature": 0.0, "max_tokens": 40, "extra_body": _JSON},
        stated_probability,
        STATE_PROBABILITY,
    ),
)


def verdict_requests(reasoning_tokens: int) -> tuple[VerdictRequest, ...]:
    """Return the ways to ask: for the verdict alone, or for a check of so many tokens before it."""
    if not reasoning_tokens:
        return _REQUESTS
    sampling = {**_LOGPROBS, "max_tokens": reasoning_tokens}
    return (VerdictRequest("self_reasoning", sampling, reasoned_yes_probability, reasoning=True),)
