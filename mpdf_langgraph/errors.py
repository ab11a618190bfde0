"""Every error that this package raises, and how an error is written in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from langgraph.errors import GraphBubbleUp

from mpdf_langgraph.secrets import mask_credentials


class MPDFError(Exception):
    """Base class of all errors raised by mpdf_langgraph."""


class ConfigurationError(MPDFError, ValueError):
    """An option is wrong. The message says which one and what to change."""


class EndpointError(MPDFError, RuntimeError):
    """A model endpoint cannot be used. The message says what is wrong with it."""


class EqualityError(MPDFError, RuntimeError):
    """The process that compares mathematical answers cannot be started. The message says why."""


class ModelOutputError(MPDFError, ValueError):
    """A model returned something that cannot be used as a response."""


class OutOfTokensError(ModelOutputError):
    """A response reached its length limit before its answer began. A new try would too."""


class DeliberationError(MPDFError, RuntimeError):
    """A deliberation gave no result, for example as every proposal failed."""


class RouterError(MPDFError, ValueError):
    """A learned router cannot be loaded, or cannot decide on its input."""


class SandboxError(MPDFError, RuntimeError):
    """Programs cannot be run safely here. The message says what is missing."""


class TraceError(MPDFError, ValueError):
    """A trace record or file does not have the documented form."""


#: Characters of an error in which keys and passwords are looked for. A reply may have 64 MB.
_MOST_SEARCHED, _LONGEST_KEY = 20_000, 4096


def list_causes(error: BaseException) -> list[BaseException]:
    """Return what an error was raised from, and what that was raised from, at most four."""
    causes: list[BaseException] = []
    while error.__cause__ is not None and len(causes) < 4:
        error = error.__cause__
        causes.append(error)
    return causes


def describe_error(error: BaseException) -> str:
    """Return an error as one line of at most 500 characters, keys and passwords masked.

    Its causes follow in brackets, as clients say no more than "Connection error".
    """
    text = f"{type(error).__name__}: {error}"
    for cause in list_causes(error):
        if str(cause) not in text:
            text += f" ({type(cause).__name__}: {cause})"
    text = " ".join(text.encode(errors="replace").decode().split())
    masked = mask_credentials(text[:_MOST_SEARCHED])
    if len(text) > _MOST_SEARCHED:  # a key that is cut there is not known: it goes as a whole
        masked = masked[:-_LONGEST_KEY]
    return masked[:500]


@contextmanager
def plugged_in(name: str) -> Iterator[None]:
    """Have the errors of a part that an app has plugged in say which part it is.

    Raises:
        ConfigurationError: The part raised an error that is none of this package's.
    """
    try:
        yield
    except (MPDFError, GraphBubbleUp):  # an interrupt is no error
        raise
    except Exception as error:
        raise ConfigurationError(f"{name} failed: {describe_error(error)}") from error
