"""Every error that this package raises, and how an error is written in one line."""

import re

_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic|token)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"(?i)((?:key|token|secret|password)[\"']?\s*[=:]\s*[\"']?)[\w.~+/=-]+"), r"\1***"),
    (re.compile(r"\b(sk|pk|hf|gsk|ghp|lsv2)[-_][\w*.-]{8,}"), r"\1-***"),
    (re.compile(r"(://)(?:[^\s/@]+|[^\s/@:]+:[^\s@]+)@"), r"\1***@"),
)


class MPDFError(Exception):
    """Base class of all errors raised by mpdf_langgraph."""


class ConfigurationError(MPDFError, ValueError):
    """An option is wrong. The message says which one and what to change."""


class EndpointError(MPDFError, RuntimeError):
    """A model endpoint cannot be used. The message says what is wrong with it."""


class ModelOutputError(MPDFError, ValueError):
    """A model returned something that cannot be used as a response."""


class OutOfTokensError(ModelOutputError):
    """A response was cut at its length limit before its answer began. A new try would be, too."""


class DeliberationError(MPDFError, RuntimeError):
    """A deliberation could not produce anything, e.g. every proposal failed."""


class RouterError(MPDFError, ValueError):
    """A learned router cannot be loaded, or cannot decide on what it was given."""


class SandboxError(MPDFError, RuntimeError):
    """Programs cannot be run safely here. The message says what is missing."""


class TraceError(MPDFError, ValueError):
    """A trace record or file does not have the documented form."""


def describe_error(error: BaseException) -> str:
    """Return an error as one line of at most 500 characters, keys and passwords masked."""
    text = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
    text = " ".join(text.split())
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text[:500]
