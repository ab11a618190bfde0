"""Keys and passwords: which ones are known, and how a text is freed of them."""

import base64
import html
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from langchain_core.runnables import Runnable
from pydantic import SecretStr

MASK = "***"
#: What stands for a key where a server wants none. It is no secret.
NO_KEY = "EMPTY"
#: A shorter value is no secret. Masking it would only spoil the text.
SHORTEST = 4
#: In a model's reply, only longer ones are masked: a header's value may be an everyday word.
SHORTEST_IN_REPLIES = 16
#: Headers that say who asks for what. Their values are everyday words, so they are not masked.
PUBLIC_HEADERS = ("accept", "content-type", "http-referer", "referer", "user-agent", "x-title")
_PATTERNS = (
    (re.compile(r"(?i)\b(bearer|basic|token)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"(?i)((?:key|token|secret|password)[\"']?\s*[=:]\s*[\"']?)[\w.~+/=-]+"), r"\1***"),
    (re.compile(r"\b(sk|pk|hf|gsk|ghp|lsv2)[-_][\w*.-]{8,}"), r"\1-***"),
    # Bounded, as else the search would go to the end of the text from every "://".
    (re.compile(r"(://)(?:[^\s/@]{1,4096}|[^\s/@:]{1,4096}:[^\s@]{1,4096})@"), r"\1***@"),
)
_SECRET_VARIABLE = re.compile(r"(?i)(KEY|TOKEN|SECRET|PASSWORD|CUSTOM_HEADERS)$")
_SCHEME = re.compile(r"(?i)^(bearer|basic|token)\s+")
_known: dict[str, None] = {}  # every form of every known secret
_lock = threading.Lock()


def hide_secrets(*values: str) -> None:
    """Have these values masked from now on, as they are and as servers may write them."""
    forms: dict[str, None] = {}
    for value in values:
        if value == NO_KEY:
            continue
        parts = [part for part in re.split(r"[\s;,=]+", value) if len(part) >= SHORTEST_IN_REPLIES]
        for part in (value, _SCHEME.sub("", value), *parts):
            if len(part) < SHORTEST:
                continue
            raw = part.encode("utf-8", "replace")
            forms |= dict.fromkeys(
                (
                    part,
                    " ".join(part.split()),
                    json.dumps(part)[1:-1],
                    html.escape(part),
                    quote(part),
                    quote(part, safe=""),
                    quote_plus(part),
                    base64.b64encode(raw).decode().rstrip("="),
                    base64.urlsafe_b64encode(raw).decode().rstrip("="),
                )
            )
    with _lock:
        _known.update(forms)


def mask_secrets(text: str, shortest: int = SHORTEST) -> str:
    """Return a text in which known secrets are masked, in upper or lower case."""
    with _lock:
        known = sorted((form for form in _known if len(form) >= shortest), key=len, reverse=True)
    if not known:
        return text
    folded = text.casefold()
    for form in known:
        if form.casefold() in folded:
            text = re.sub(re.escape(form), MASK, text, flags=re.IGNORECASE)
            folded = text.casefold()
    return text


def mask_credentials(text: str) -> str:
    """Return a text without known secrets, and without what looks like a credential."""
    text = mask_secrets(text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def hide_environment() -> None:
    """Have the keys in the environment masked, as clients take theirs from it."""
    hide_secrets(*(v for name, v in os.environ.items() if _SECRET_VARIABLE.search(name)))


def hide_secrets_of(runnable: Any) -> None:
    """Have the keys and headers masked that a model, or a chain of models, was made with."""
    hide_secrets(*_secrets_in(runnable))


def header_values(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values of the headers among a model's options that may be secrets."""
    for name, value in options.items():
        if not isinstance(value, Mapping):
            continue
        if "headers" in name:
            yield from (
                one
                for header, one in value.items()
                if isinstance(one, str) and str(header).lower() not in PUBLIC_HEADERS
            )
        else:
            yield from header_values(value)


def _secrets_in(given: Any, depth: int = 8) -> Iterator[str]:
    if isinstance(given, SecretStr):
        yield given.get_secret_value()
    elif depth and isinstance(given, Mapping):
        yield from header_values(given)
        for value in given.values():
            yield from _secrets_in(value, depth - 1)
    elif depth and isinstance(given, list | tuple):
        for value in given:
            yield from _secrets_in(value, depth - 1)
    elif depth and isinstance(given, Runnable):
        yield from _secrets_in(getattr(given, "__dict__", {}), depth - 1)
