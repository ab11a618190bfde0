"""Replies: what a Runnable returned, read and checked, and its record as a response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from mpdf_langgraph.answers.schema import AnswerSchema
from mpdf_langgraph.errors import ModelOutputError
from mpdf_langgraph.response_profile import logprob_summary, reasoning_profile, token_logprobs
from mpdf_langgraph.runtime.calls import CallResult
from mpdf_langgraph.state import Response


@dataclass(frozen=True)
class Reply:
    """A model's reply, checked: its text and what the endpoint said about it."""

    text: str
    finish_reason: str | None
    model: str | None
    token_logprobs: list[float]


def read_reply(value: Any) -> Reply:
    """Read what a Runnable returned.

    Args:
        value: A message, a string, or a graph's output with `messages`.

    Raises:
        ModelOutputError: It holds no text, its stream broke off, or a graph's last message is
            the one it was asked with.
    """
    if isinstance(value, Mapping):
        messages = value.get("messages")
        if not isinstance(messages, Sequence) or not messages:
            raise ModelOutputError(
                f"expected a graph's output with 'messages', got the keys {sorted(value)}"
            )
        value = messages[-1]
        unnamed = isinstance(value, HumanMessage) and not value.name
        if unnamed or isinstance(value, SystemMessage):
            raise ModelOutputError("the graph added no message to what it was asked")
    if isinstance(value, str):
        value = AIMessage(value)
    if not isinstance(value, BaseMessage):
        raise ModelOutputError(f"expected a message or a string, got {type(value).__name__}")
    # Lone surrogates pass through JSON parsers and break every later write.
    text = str(value.text).encode("utf-8", "replace").decode("utf-8").strip()
    metadata = value.response_metadata
    finish_reason = _finish_reason(metadata)
    if metadata.get("model_provider") == "openai" and finish_reason is None:
        raise ModelOutputError("the endpoint's stream ended before the response was finished")
    if not text:
        raise ModelOutputError(f"the response is empty (finish_reason {finish_reason!r})")
    model = metadata.get("model_name")
    return Reply(
        text=text,
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        model=model if isinstance(model, str) else None,
        token_logprobs=token_logprobs(metadata),
    )


def _finish_reason(metadata: Mapping[str, Any]) -> Any:
    """Return why generation ended, in the words of OpenAI's chat completions."""
    # The Responses API gives a status instead, Anthropic a stop_reason.
    reason = metadata.get("finish_reason") or metadata.get("stop_reason") or metadata.get("status")
    if reason == "incomplete":
        reason = (metadata.get("incomplete_details") or {}).get("reason", "length")
    words = {
        "completed": "stop",
        "max_output_tokens": "length",
        "max_tokens": "length",
        "MAX_TOKENS": "length",
    }
    return words.get(reason, reason) if isinstance(reason, str) else reason


def response_from(
    outcome: CallResult, *, response_id: str, agent: str, round_: int, schema: AnswerSchema
) -> Response:
    """Return the record of a successful call's reply, not yet clustered or critiqued."""
    reply: Reply = outcome.value
    return Response(
        id=response_id,
        agent=agent,
        round=round_,
        text=reply.text,
        answer=schema.parse(reply.text),
        cluster=None,
        profile=reasoning_profile(reply.text, reply.finish_reason),
        logprobs=logprob_summary(reply.token_logprobs),
        critique=None,
        finish_reason=reply.finish_reason,
        model=reply.model,
        usage=outcome.usage,
        seconds=outcome.seconds,
    )
