"""A shorter way through the OpenAI client, for requests and replies of the usual form.

The client compares every message of a request with all types of messages that it knows, and makes
an object of every token of a reply. That takes a third of a call's processor time. Here the
messages go into the body as they are, and a reply of the usual form is read as plain JSON. The
client still does all the rest: headers, timeouts, retries, errors. It also reads every reply of
another form, so that whatever is wrong with a reply shows as before.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from types import NoneType
from typing import Any

import orjson


def shorten(create: Callable[..., Any]) -> Callable[..., Any]:
    """Return a client's `with_raw_response.create` that takes the shorter way."""

    @wraps(create)
    def short(**payload: Any) -> Any:
        return create(**payload) if payload.get("stream") else _Raw(create(**_shorter(payload)))

    return short


def shorten_async(create: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return an asynchronous client's `with_raw_response.create` that takes the shorter way."""

    @wraps(create)
    async def short(**payload: Any) -> Any:
        if payload.get("stream"):
            return await create(**payload)
        return _Raw(await create(**_shorter(payload)))

    return short


def _shorter(payload: dict[str, Any]) -> dict[str, Any]:
    body = {"messages": payload["messages"], **(payload.get("extra_body") or {})}
    return {**payload, "messages": [], "extra_body": body}


class _Raw:
    """A raw reply, as the client returns it, with another `parse`."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def parse(self) -> Any:
        """Return the reply: a dict if it has the usual form, else what the client makes of it."""
        response = self._raw.http_response
        if response.headers.get("content-type", "").partition(";")[0].endswith("json"):
            try:
                reply = orjson.loads(response.content)
            except orjson.JSONDecodeError:
                return self._raw.parse()
            if has_usual_form(reply):
                return reply
        return self._raw.parse()


def has_usual_form(reply: Any) -> bool:
    """Tell whether a reply is one text of the assistant, with every value of its proper type.

    Reasoning, usage and log-probabilities may be there. Tool calls, refusals and audio may not.
    """
    if type(reply) is not dict or reply.get("error") or type(reply.get("choices")) is not list:
        return False
    if len(reply["choices"]) != 1 or type(reply.get("model")) is not str:
        return False
    [choice] = reply["choices"]
    if type(choice) is not dict or type(choice.get("finish_reason")) is not str:
        return False
    message = choice.get("message")
    if type(message) is not dict or type(message.get("content")) is not str:
        return False
    if message.get("role") != "assistant" or any(message.get(key) for key in _UNUSUAL):
        return False
    usage = reply.get("usage")
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    if type(usage) is not dict or any(type(usage.get(key)) is not int for key in counts):
        return False
    if any(usage.get(key) for key in ("prompt_tokens_details", "completion_tokens_details")):
        return False
    return choice.get("logprobs") is None or _are_usual_logprobs(choice["logprobs"])


_UNUSUAL = ("refusal", "audio", "annotations", "function_call", "tool_calls", "name", "parsed")


def _are_usual_logprobs(logprobs: Any) -> bool:
    content = logprobs.get("content") if type(logprobs) is dict else None
    return type(content) is list and all(
        _is_usual_token(entry)
        and type(entry.get("top_logprobs")) is list
        and all(map(_is_usual_token, entry["top_logprobs"]))
        for entry in content
    )


def _is_usual_token(entry: Any) -> bool:
    return (
        type(entry) is dict
        and type(entry.get("token")) is str
        and type(entry.get("logprob")) is float
        and type(entry.get("bytes")) in (list, NoneType)
    )
