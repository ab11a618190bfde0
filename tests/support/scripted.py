"""Chat models that say what a test tells them to, and remember what they were asked."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr


@dataclass(frozen=True)
class Request:
    """One call: its messages, its keyword arguments, and its number, from 1."""

    messages: list[BaseMessage]
    kwargs: dict[str, Any]
    number: int

    @property
    def text(self) -> str:
        return "\n".join(str(message.text) for message in self.messages)

    @property
    def last(self) -> str:
        return str(self.messages[-1].text)

    @property
    def kind(self) -> str:
        """What the plugin's own prompts ask for."""
        openings = {
            "Other participants": "refine",
            "Is the final answer": "critique",
            "Check that solution": "critique",
            "Reply with JSON": "json",
        }
        return next((k for text, k in openings.items() if self.last.startswith(text)), "propose")


Reply = str | AIMessage | Exception


def by_kind(propose: Any, refine: Any = None, critique: Any = None) -> Callable[[Request], Reply]:
    """Reply by what is asked for: one reply, or a list of them in turn, the last repeated."""
    scripts: dict[str, Any] = {}
    usual = propose[-1] if isinstance(propose, list) else propose
    for kind, given in {"propose": propose, "refine": refine, "critique": critique}.items():
        replies = given if isinstance(given, list) else [usual if given is None else given]
        scripts[kind] = itertools.chain(replies, itertools.repeat(replies[-1]))
    scripts["json"] = itertools.repeat("I do not speak JSON")
    return lambda request: next(scripts[request.kind])


def yes(probability: float) -> AIMessage:
    """A verdict whose log-probabilities say yes with `probability`."""
    return verdict([("yes", probability), ("no", 1.0 - probability)])


def verdict(*positions: list[tuple[str, Any]]) -> AIMessage:
    """A reply with these (token, probability) pairs at each of its positions."""
    content = []
    for pairs in positions:
        top = [{"token": token, "logprob": _log(p)} for token, p in pairs]
        content.append({**top[0], "top_logprobs": top} if top else {"top_logprobs": []})
    word = positions[0][0][0] if positions and positions[0] else "?"
    return AIMessage(word, response_metadata={"logprobs": {"content": content}})


def _log(p: Any) -> Any:
    return math.log(max(p, 1e-12)) if isinstance(p, float) and not math.isnan(p) else p


def checked(text: str, *positions: list[tuple[str, Any]]) -> AIMessage:
    """A reply of which `positions` are the tokens' log-probabilities."""
    return verdict(*positions).model_copy(update={"content": text})


#: A check in writing of 2 + 2, whose verdict is yes with .7 against .1.
WRITTEN = checked(
    "No: 2 + 2 = 4\nyes.",
    [("No", 0.9), ("yes", 0.1)],
    [("=", 1.0)],
    [("yes", 0.7), ("no", 0.1)],
    [(".", 0.9), ("no", 0.1)],
)


class StatusError(Exception):
    """What HTTP clients raise for a status."""

    def __init__(self, status_code: int, text: str = "") -> None:
        super().__init__(text or f"HTTP status {status_code}")
        self.status_code = status_code


@dataclass
class Served:
    """What an endpoint did for a request, as its own log would say."""

    request: Request
    prompt_tokens: int
    completion_tokens: int = 0
    error: Exception | None = field(default=None)


class Scripted(BaseChatModel):
    """A chat model whose replies are a function of the request.

    It counts a token for every `bytes_per_token` bytes, plus 3 a message, and stops at
    `max_tokens`.
    """

    reply: Callable[[Request], Reply]
    model_name: str = "scripted"
    temperature: float | None = None
    max_tokens: int | None = None
    logprob: float | None = None  # of every token it generates
    delay: float = 0.0
    fail: Mapping[int, Exception] = Field(default_factory=dict)  # by number of the call
    reports_usage: bool = True
    bytes_per_token: int = 4
    served: list[Served] = Field(default_factory=list)
    _numbers: Any = PrivateAttr(default_factory=lambda: itertools.count(1))

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def requests(self) -> list[Request]:
        return [served.request for served in self.served]

    def kinds(self) -> list[str]:
        return [request.kind for request in self.requests]

    def _size(self, text: str) -> int:
        return -(-len(text.encode("utf-8", "replace")) // self.bytes_per_token)

    def _serve(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> ChatResult:
        request = Request(list(messages), dict(kwargs), next(self._numbers))
        prompt_tokens = sum(3 + self._size(str(m.text)) for m in messages)
        served = Served(request, prompt_tokens)
        self.served.append(served)
        reply = self.fail.get(request.number) or self.reply(request)
        if isinstance(reply, Exception):
            served.error = reply
            raise reply
        message = AIMessage(reply) if isinstance(reply, str) else reply.model_copy(deep=True)
        finish = self._cut(message, kwargs.get("max_tokens", self.max_tokens))
        served.completion_tokens = self._size(str(message.text))
        given = {"model_name": self.model_name, "finish_reason": finish}
        if self.logprob is not None:
            token = {"token": "x", "logprob": self.logprob, "top_logprobs": []}
            given["logprobs"] = {"content": [token] * max(1, served.completion_tokens)}
        message.response_metadata = {**given, **message.response_metadata}
        if self.reports_usage:
            message.usage_metadata = {
                "input_tokens": prompt_tokens,
                "output_tokens": served.completion_tokens,
                "total_tokens": prompt_tokens + served.completion_tokens,
            }
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _cut(self, message: AIMessage, limit: int | None) -> str:
        if limit is None or self._size(str(message.text)) <= limit:
            return "stop"
        kept = str(message.text).encode()[: limit * self.bytes_per_token]
        message.content = kept.decode(errors="ignore")
        return "length"

    def _generate(self, messages: Any, stop: Any = None, *_: Any, **more: Any) -> ChatResult:
        time.sleep(self.delay)
        return self._serve(messages, more)

    async def _agenerate(self, messages: Any, stop: Any = None, *_: Any, **more: Any) -> ChatResult:
        await asyncio.sleep(self.delay)
        return self._serve(messages, more)


def says(propose: Any, refine: Any = None, critique: Any = None, **options: Any) -> Scripted:
    """A model with a script by kind of request."""
    return Scripted(reply=by_kind(propose, refine, critique), **options)


def counted(usage: Mapping[str, Any]) -> dict[str, int]:
    """The part of a `Usage` that `totals` knows of."""
    return {key: usage[key] for key in totals([])}


def totals(models: Iterable[Scripted]) -> dict[str, int]:
    """What `models` served, as `Usage` has it. Failed requests cost a call and no tokens."""
    served = [one for model in models for one in model.served]
    good = [one for one in served if one.error is None]
    return {
        "calls": len(served),
        "prompt_tokens": sum(one.prompt_tokens for one in good),
        "completion_tokens": sum(one.completion_tokens for one in good),
        "unreported": 0,
    }
