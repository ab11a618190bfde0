"""Whose call is under way, by which an agent's calls stay at one of several servers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_CALLER: ContextVar[tuple[str, str] | None] = ContextVar("mpdf_caller", default=None)


def current_caller() -> tuple[str, str] | None:
    """Return episode and agent of the call that is under way, None outside of one."""
    return _CALLER.get()


@contextmanager
def calling(metadata: Mapping[str, Any] | None) -> Iterator[None]:
    """Set the caller, as a call's metadata tells it, while the call is under way."""
    known = metadata or {}
    agent = known.get("mpdf_agent")
    token = _CALLER.set((str(known.get("mpdf_episode")), str(agent)) if agent else None)
    try:
        yield
    finally:
        _CALLER.reset(token)
