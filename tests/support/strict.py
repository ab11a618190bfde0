"""A server that refuses what real ones refuse: vLLM with strict chat templates, OpenAI's checks."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.server import Server, cards

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
#: A template cuts a text into tokens like these, as far as a test is concerned.
_TOKEN = re.compile(r"<[^<>\s]*>|\s*[^\s<]+|\s+|<")


@dataclass
class Completion:
    """What a model generates: what its reasoning parser sets apart, and the rest.

    Attributes:
        content: None where the parser found no answer.
        reasoning: In a field of its own.
        tokens: With their log-probabilities, thoughts included. None: those of the content.
    """

    content: str | None
    reasoning: str | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    tokens: list[tuple[str, float]] | None = None


def tokens_of(text: str, logprob: float) -> list[tuple[str, float]]:
    """Return the tokens of a text, each with the same log-probability."""
    return [(token, logprob) for token in _TOKEN.findall(text)]


@dataclass
class StrictServer:
    """Serves the one model ``tiny`` to well-formed conversations alone.

    Attributes:
        reply: What it generates for a conversation's last message: text, or a `Completion`.
        images: The model takes them.
    """

    reply: Callable[[str], str | Completion]
    images: bool = False
    server: Server = field(default_factory=Server)
    refusals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.routes = {
            "/v1/models": lambda _: (200, cards("tiny")),
            "/v1/chat/completions": self._complete,
        }

    @property
    def url(self) -> str:
        return self.server.url

    def conversations(self) -> list[list[dict[str, Any]]]:
        return [body["messages"] for path, _, body in self.server.requests if "chat" in path]

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        if reason := refusal_of(body["messages"], images=self.images):
            self.refusals.append(reason)
            error = {"message": reason, "type": "BadRequestError", "code": 400}
            return 400, {"error": error}
        last = body["messages"][-1]["content"]
        asked = last if isinstance(last, str) else last[-1]["text"]
        given = self.reply(asked)
        done = Completion(given) if isinstance(given, str) else given
        message = {"role": "assistant", "content": done.content, "refusal": done.refusal}
        message |= {} if done.reasoning is None else {"reasoning_content": done.reasoning}
        tokens = tokens_of(done.content or "", -0.1) if done.tokens is None else done.tokens
        content = [
            {"token": t, "logprob": p, "bytes": list(t.encode()), "top_logprobs": []}
            for t, p in tokens
        ]
        choice = {
            "index": 0,
            "finish_reason": done.finish_reason,
            "message": message,
            "logprobs": {"content": content} if body.get("logprobs") else None,
        }
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        about = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return 200, {**about, "choices": [choice], "usage": usage}


def refusal_of(messages: list[dict[str, Any]], *, images: bool = False) -> str | None:
    """Return why a server turns a conversation down, None where it does not."""
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    expected = "user"
    for place, message in enumerate(messages):
        name = message.get("name")
        if name is not None and not _NAME.fullmatch(name):
            return f"Invalid 'messages[{place}].name': string does not match pattern"
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        if any(b["type"] not in ("text", "image_url") for b in blocks):
            return f"Unknown part type in messages[{place}]"
        if any(b["type"] == "image_url" for b in blocks) and not images:
            return "tiny is not a multimodal model"
        if not any(b.get("text") for b in blocks):
            return f"messages[{place}] has no text"
    for message in turns:
        if message["role"] == "system":
            return "System message must be at the beginning."
        if message["role"] == "tool" or message.get("tool_calls"):
            return "The chat template of tiny does not know tools."
        if message["role"] != expected:
            return "Conversation roles must alternate user/assistant/user/assistant/..."
        expected = "assistant" if expected == "user" else "user"
    if not turns or turns[-1]["role"] != "user":
        return "The last message must be the user's."
    return None
