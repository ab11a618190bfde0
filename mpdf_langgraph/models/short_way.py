"""A shorter way through the OpenAI client, for requests and replies of the usual form.

The client compares every message of a request with all types of messages that it knows, builds the
address and the headers of every request anew, and makes an object of every token of a reply. That
takes half of a call's processor time. Here messages and plain options go into the body as they are,
the address and the headers of the last request serve again, and a reply of the usual form is read
as plain JSON. The client still does all the rest: timeouts, retries, errors. It also builds every
request and reads every reply of another form. So whatever is wrong shows as before.

LangChain has an asynchronous reply read in a thread. That takes longer than the reading, so a reply
of the usual form is handed over beside it (see `UsualReply`).
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from types import NoneType
from typing import Any

import httpx2
import orjson
from openai import NotGiven, Omit, omit


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
        raw = _Raw(await create(**_shorter(payload)))
        if (reply := raw.usual_reply()) is not None:
            raise UsualReply(reply)
        return raw

    return short


class UsualReply(Exception):  # noqa: N818 - it is no error
    """A reply of the usual form, on its way past LangChain's reading.

    Attributes:
        reply: The reply as plain JSON.
    """

    def __init__(self, reply: dict[str, Any]) -> None:
        self.reply = reply


#: Options whose plain values the client would send as they are.
_PLAIN_OPTIONS = {
    "model", "stream", "temperature", "max_completion_tokens", "max_tokens", "logprobs",
    "top_logprobs", "n", "seed", "top_p", "presence_penalty", "frequency_penalty",
}  # fmt: skip
_PLAIN = (str, int, float, bool, NoneType)


def _shorter(payload: dict[str, Any]) -> dict[str, Any]:
    plain = {k: v for k, v in payload.items() if k in _PLAIN_OPTIONS and type(v) in _PLAIN}
    rest = {k: v for k, v in payload.items() if k not in plain}
    body = {"messages": payload["messages"], **plain, **(payload.get("extra_body") or {})}
    return {"model": omit, **rest, "messages": omit, "extra_body": body}


def reuse_heads(client: Any) -> None:
    """Have an OpenAI client use the address and headers of its last request again.

    They are made anew where an option, or the client's address, key or timeout, is another one.
    Its HTTP client must be one that nobody changes. A client without the methods that this needs,
    as a later release may be, stays as it is.
    """
    if not all(hasattr(client, name) for name in ("_build_request", "_idempotency_header")):
        return
    build: Callable[..., httpx2.Request] = client._build_request
    last: tuple[Any, httpx2.Request] | None = None

    def build_request(options: Any, **retries: Any) -> httpx2.Request:
        nonlocal last
        kept = last  # another thread may replace it meanwhile
        given = {k: v for k, v in vars(options).items() if not isinstance(v, NotGiven)} | retries
        body = {**(given.pop("json_data", None) or {}), **(given.pop("extra_json", None) or {})}
        # The client makes an idempotency key for each request, but has no header to send it in.
        given["idempotency_key"] = client._idempotency_header
        given["client"] = client.base_url, client.api_key, client.timeout
        if kept is not None and kept[0] == given and not client._client.cookies:
            head = kept[1]
            plain = {k: v for k, v in body.items() if not isinstance(v, Omit)}
            with suppress(TypeError, ValueError):  # the client knows of more than plain JSON
                return httpx2.Request(
                    "POST", head.url, headers=head.headers, json=plain, extensions=head.extensions
                )
        request = build(options, **retries)
        if given["method"] == "post" and not given.get("content") and not given.get("files"):
            head = httpx2.Request("POST", request.url, extensions=request.extensions)
            head.headers = request.headers.copy()
            del head.headers["Content-Length"]
            last = given, head
        return request

    client._build_request = build_request


class _Raw:
    """A raw reply, as the client returns it, with another `parse`."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def parse(self) -> Any:
        """Return the reply: a dict if it has the usual form, else what the client makes of it."""
        reply = self.usual_reply()
        return self._raw.parse() if reply is None else reply

    def usual_reply(self) -> dict[str, Any] | None:
        """Return the reply if it has the usual form."""
        response = self._raw.http_response
        if response.headers.get("content-type", "").partition(";")[0].endswith("json"):
            with suppress(orjson.JSONDecodeError):
                reply: dict[str, Any] = orjson.loads(response.content)
                return reply if has_usual_form(reply) else None
        return None


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
    if type(content) is not list or not _are_usual_tokens(content):
        return False
    others = [entry.get("top_logprobs") for entry in content]
    return _types(others) <= {list} and all(_are_usual_tokens(few) for few in others if few)


def _are_usual_tokens(entries: list[Any]) -> bool:
    return (
        _types(entries) <= {dict}
        and _types([entry.get("token") for entry in entries]) <= {str}
        and _types([entry.get("logprob") for entry in entries]) <= {float}
        and _types([entry.get("bytes") for entry in entries]) <= {list, NoneType}
    )


def _types(values: list[Any]) -> set[type]:
    return set(map(type, values))
