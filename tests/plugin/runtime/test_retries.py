"""What a server may say about waiting, and how long is waited."""

import math
import random
import time
from email.utils import formatdate
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from mpdf_langgraph.runtime.retries import (
    LONGEST_PAUSE,
    LONGEST_RETRY_AFTER,
    backoff,
    is_transient,
    pause_before_retry,
    retry_after,
)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "86400"}, LONGEST_RETRY_AFTER),
        ({"retry-after": formatdate(0, usegmt=True)}, 0.0),
        ({"retry-after": formatdate(4e9, usegmt=True)}, LONGEST_RETRY_AFTER),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
    ],
    ids=repr,
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_is_waited_for() -> None:
    asked = retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert asked is not None
    assert 0 < asked <= 30


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text()))
def test_no_header_breaks_it(headers: dict[str, str]) -> None:
    seconds = retry_after(headers)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER


@given(st.integers(0, 10**9), st.floats(0.01, 1e6))
def test_pauses_double_up_to_a_bound(failures: int, longest: float) -> None:
    assert 0 < backoff(failures, longest) <= longest


def test_pauses_are_spread() -> None:
    pauses = [backoff(3, LONGEST_PAUSE) for _ in range(1000)]
    assert 1 <= min(pauses) < 1.1
    assert 1.9 < max(pauses) <= 2


class Options(BaseModel, extra="forbid"):
    """What a client may be told."""

    seed: int | None = None


@pytest.mark.parametrize(
    ("options", "passes"), [({"logprobs": True}, False), ({"seed": "x"}, True)]
)
def test_an_option_that_a_client_does_not_know_stays_unknown(
    options: dict[str, Any], passes: bool
) -> None:
    with pytest.raises(ValidationError) as caught:
        Options(**options)
    assert is_transient(caught.value) is passes


def refused(headers: dict[str, str]) -> Exception:
    request = httpx.Request("POST", "http://localhost/v1")
    response = httpx.Response(429, request=request, headers=headers)
    return openai.RateLimitError("busy", response=response, body=None)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pause_is_what_was_asked_for_and_a_little_more(wrapped: bool) -> None:
    error: Any = refused({"Retry-After": "7"})
    if wrapped:
        error, cause = ValueError("failed"), error
        error.__cause__ = cause
    pauses = [pause_before_retry(error, 1) for _ in range(1000)]
    assert min(pauses) > 7
    assert max(pauses) <= 7.5
    assert len(set(pauses)) > 900


def test_without_a_word_the_pause_is_the_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    for error in (refused({}), ValueError("no reply at all")):
        assert [pause_before_retry(error, n) for n in (1, 2, 5, 6)] == [0.5, 1.0, 8.0, 8.0]
    assert math.isfinite(pause_before_retry(refused({}), 10**6))
