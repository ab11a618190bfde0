"""Servers that several test files ask."""

from collections.abc import Iterator

import pytest

from tests.support.server import Server, cards, completion
from tests.support.strict import StrictServer


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that serves the one model ``tiny`` faultlessly."""
    with Server() as running:
        running.routes = {
            "/v1/models": lambda _: (200, cards("tiny")),
            "/v1/chat/completions": completion,
        }
        yield running


@pytest.fixture
def strict() -> Iterator[StrictServer]:
    """A server that refuses what real ones refuse, and says 4 otherwise."""
    running = StrictServer(lambda _: "Answer: 4")
    with running.server:
        yield running
