"""Many requests at once: none fails for the wait, and nothing of them is left."""

import asyncio
import gc
import time

import pytest

from mpdf_langgraph import vllm_chat_model
from mpdf_langgraph.models import connections
from tests.support.load import deliberation, failures_of
from tests.support.loopback import loopback


async def test_many_deliberations_at_once_all_finish() -> None:
    with loopback(delay=2.0) as (url, _):
        assert await failures_of(deliberation(url), 200, at_once=200) == []


async def test_more_than_there_are_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 calls of half a second over 20 connections, within a timeout of two seconds each."""
    monkeypatch.setattr(connections, "_most_connections", lambda: 20)
    with loopback(delay=0.5) as (url, _):
        assert await failures_of(deliberation(url, timeout=2, deadline=2.5), 40, at_once=40) == []


async def test_an_event_loop_that_is_busy_is_no_silent_server() -> None:
    """The loop runs freely for a moment every 0.4 s. A timeout of 0.5 s passes in two of them."""
    with loopback() as (url, _):
        llm = vllm_chat_model(url, "tiny", timeout=0.5)
        answer = asyncio.create_task(llm.ainvoke("Hello"))
        for _ in range(20):
            await asyncio.sleep(0)
            time.sleep(0.4)  # noqa: ASYNC251 - it is what is tested
            if answer.done():
                break
        assert (await answer).content == "tiny"


async def test_nothing_is_left_of_a_deliberation() -> None:
    with loopback() as (url, _):
        graph = deliberation(url)
        await failures_of(graph, 150, at_once=10)  # caches fill
        gc.collect()
        before = len(gc.get_objects())
        await failures_of(graph, 150, at_once=10)
        gc.collect()
        assert len(gc.get_objects()) - before < 150  # less than one object each
