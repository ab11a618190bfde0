"""Replies: what a Runnable returned, read and checked, and its record as a response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from mpdf_langgraph.answers.schema import AnswerSchema
from mpdf_langgraph.answers.thoughts import split_thought
from mpdf_langgraph.errors import ModelOutputError, OutOfTokensError
from mpdf_langgraph.history import plain_text, writable
from mpdf_langgraph.response_profile import logprob_summary, reasoning_profile, token_logprobs
from mpdf_langgraph.runtime.calls import CallResult
from mpdf_langgraph.secrets import SHORTEST_IN_REPLIES, mask_secrets
from mpdf_langgraph.state import Response

#: Stands for a refusal without words of its own.
NO_WORDS = "I cannot answer this."


@dataclass(frozen=True)
class Reply:
    """A model's reply, checked: what it said and what the endpoint said about it.

    Attributes:
        text: Its answer without the thought before it, or the words of its refusal.
        token_logprobs: Natural logarithms, one per token of the answer. Empty if unknown.
        thought: The model's thought before the answer, if it can be seen.
        refused: The model refused to answer.
    """

    text: str
    finish_reason: str | None
    model: str | None
    token_logprobs: list[float]
    thought: str | None = None
    refused: bool = False


def read_reply(value: Any) -> Reply:
    """Read what a Runnable returned.

    Args:
        value: A message, a string, or a graph's output with `messages`.

    Raises:
        OutOfTokensError: Its length limit was reached before the answer began.
        ModelOutputError: It holds no answer, its stream broke off, or a graph's last message is
            the one it was asked with.
    """
    if isinstance(value, Mapping):
        messages = value.get("messages")
        if not isinstance(messages, Sequence) or not messages:
            raise ModelOutputError(
                "expected a graph's output with one or more 'messages', got the keys "
                f"{list(value)!r:.80}"
            )
        value = messages[-1]
        unnamed = isinstance(value, HumanMessage) and not value.name
        if unnamed or isinstance(value, SystemMessage):
            raise ModelOutputError("the graph added no message to what it was asked")
    if isinstance(value, str):
        value = AIMessage(value)
    if not isinstance(value, BaseMessage):
        raise ModelOutputError(f"expected a message or a string, got {type(value).__name__}")
    metadata = value.response_metadata
    finish_reason = _finish_reason(metadata)
    if metadata.get("model_provider") == "openai" and finish_reason is None:
        raise ModelOutputError("the endpoint's stream ended before the response was finished")
    written, text = split_thought(mask_secrets(plain_text(value), SHORTEST_IN_REPLIES))
    thought = "\n".join(filter(None, [_separate_thought(value), written])) or None
    refusal = _refusal(value, text, finish_reason)
    if refusal is None and not text:
        raise _no_answer(value, thought, finish_reason)
    model = metadata.get("model_name")
    return Reply(
        text=(text if refusal is None else refusal).strip(),
        finish_reason=mask_secrets(finish_reason) if isinstance(finish_reason, str) else None,
        model=mask_secrets(model) if isinstance(model, str) else None,
        token_logprobs=[] if refusal is not None else _answer_logprobs(metadata, text, written),
        thought=thought,
        refused=refusal is not None,
    )


def _no_answer(message: BaseMessage, thought: str | None, finish_reason: Any) -> ModelOutputError:
    """Return the error of a reply without an answer."""
    calls = isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls)
    if finish_reason == "length" and not calls:
        return OutOfTokensError(
            "max_tokens was used up by reasoning before the answer began (finish_reason 'length'):"
            " raise max_tokens, or have the model think less"
        )
    what = "holds a thought and no answer" if thought else "is empty"
    return ModelOutputError(f"the response {what} (finish_reason {finish_reason!r})")


def _separate_thought(message: BaseMessage) -> str | None:
    """Return the thought that an endpoint, or the client, has kept apart from the text."""
    parts = [message.additional_kwargs.get("reasoning_content")]
    if isinstance(message.content, list):
        parts += [b.get("reasoning") for b in message.content_blocks if b["type"] == "reasoning"]
    texts = [part.strip() for part in parts if isinstance(part, str)]
    joined = mask_secrets("\n".join(filter(None, texts)), SHORTEST_IN_REPLIES)
    return writable(joined) or None


def _refusal(message: BaseMessage, text: str, finish_reason: Any) -> str | None:
    """Return the words of a refusal, None if the reply is not a refusal."""
    blocks = message.content if isinstance(message.content, list) else []
    said = [message.additional_kwargs.get("refusal")]
    said += [b.get("refusal") for b in blocks if isinstance(b, dict) and b.get("type") == "refusal"]
    for words in said:
        if isinstance(words, str) and words.strip():
            return writable(mask_secrets(words.strip(), SHORTEST_IN_REPLIES))
    # Anthropic's word for a refusal, and OpenAI's word for a reply that its filter emptied.
    if finish_reason == "refusal" or (finish_reason == "content_filter" and not text):
        return text or NO_WORDS
    return None


def _answer_logprobs(metadata: Mapping[str, Any], text: str, thought: str | None) -> list[float]:
    """Return the log-probabilities of the tokens after the thought.

    A reasoning parser takes the thought out of the text, but not out of the log-probabilities.
    """
    values = token_logprobs(metadata)
    if not values:
        return []
    content = metadata["logprobs"]["content"]
    if thought is None and "".join([str(entry.get("token")) for entry in content]).strip() == text:
        return values  # mostly the tokens are those of the answer
    pieces = [_token_bytes(entry) for entry in content]
    joined = b"".join(pieces)
    whole = joined.decode("utf-8", "replace")
    _, answer = split_thought(whole)
    if answer.strip() == whole.strip():
        return [] if thought else values  # the tokens' texts do not show where the thought ends
    start = joined.rfind(answer.strip().encode()) if answer.strip() else -1
    if start < 0:
        return []
    ends = accumulate(map(len, pieces))
    return [value for value, end in zip(values, ends, strict=True) if end > start]


def _token_bytes(entry: Mapping[str, Any]) -> bytes:
    """Return the bytes of a token, of which a character may take several."""
    given = entry.get("bytes")
    if isinstance(given, list) and all(isinstance(b, int) and 0 <= b < 256 for b in given):
        return bytes(given)
    return str(entry.get("token", "")).encode("utf-8", "replace")


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
    """Return the record of a successful call's reply, not yet clustered or critiqued.

    Raises:
        ModelOutputError: A schema of one's own gave something that is no answer.
    """
    reply: Reply = outcome.value
    answer = None if reply.refused else schema.parse(reply.text)
    if not isinstance(answer, str | None):
        raise ModelOutputError(
            f"parse of the answer schema {schema.name!r} returned {answer!r:.80}, expected a text "
            "or None"
        )
    response = Response(
        id=response_id,
        agent=agent,
        round=round_,
        text=reply.text,
        answer=answer,
        cluster=None,
        profile=reasoning_profile(reply.text, reply.finish_reason),
        logprobs=logprob_summary(reply.token_logprobs),
        critique=None,
        finish_reason=reply.finish_reason,
        model=reply.model,
        usage=outcome.usage,
        seconds=outcome.seconds,
    )
    if reply.thought is not None:
        response["thought"] = reply.thought
    if reply.refused:
        response["refused"] = True
    return response
