"""Fixtures of several test files."""

import time
from collections.abc import Callable

import pytest


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Put the wall clock ahead by some seconds: time passes, and no test has to be quick."""
    real, ahead = time.time, 0.0

    def forward(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    return forward
