"""What is read off a response: claims, hedges, operators, log-probabilities."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpdf_langgraph.response_profile import (
    WINDOW,
    logprob_summary,
    reasoning_profile,
    token_logprobs,
)


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("Confidence: 80%", 0.8),
        ("confidence 0.8", 0.8),
        ("Confidence: .8", 0.8),
        ("CONFIDENCE = 85\\%", 0.85),
        ("**Confidence**: **85%**", 0.85),
        ('{"confidence": 0.9}', 0.9),
        ("My confidence in this answer is about 75 %.", 0.75),
        ("confidence level: 7/10", 0.7),
        ("Confidence: 9 out of 10", 0.9),
        ("Confidence: 64/100", 0.64),
        ("Confidence: 1", 1.0),
        ("Confidence: 1%", 0.01),
        ("confidence 0.8, I think", 0.8),
        ("Confidence: 0.75.", 0.75),
        ("Confidence: 1,000", None),
        ("1000% sure", None),
        ("confidence 80", 0.8),
        ("I am 90% sure", 0.9),
        ("I'm 99.5 % certain of it.", 0.995),
        ("95% confident", 0.95),
        ("Confidence: 20%. On reflection, confidence: 60%", 0.6),
        ("Confidence: 300%", None),
        ("Confidence: 1000", None),
        ("confidence: 11/10", None),
        ("I am confident that it is 42.", None),
        ("I'm confident the answer is 7", None),
        ("Confidence is high.\n42 apples", None),
        ("20% of the apples", None),
        ("confidently 50", None),
        ("", None),
    ],
)
def test_claimed_confidence(text: str, claim: float | None) -> None:
    assert reasoning_profile(text)["claimed_confidence"] == (
        None if claim is None else pytest.approx(claim)
    )


@pytest.mark.parametrize(
    ("text", "operators"),
    [
        ("3 + 4 = 7", 2),
        ("3+4=7", 2),
        ("(2*3)/6", 2),
        ("x-1 and 2/3", 2),
        ("x - y < 12 ÷ z", 3),
        ("2^3", 1),
        (r"\frac{1}{2} \times 4", 2),
        ("12 - price", 1),
        ("a well-known step-by-step method, and/or a 12-year-old with GPT-4", 0),
        ("- first\n- second\n  * third\n+ fourth", 0),
        ("- first: 3 + 4\n- second", 1),
        ("**bold** and # title", 0),
        ("", 0),
    ],
)
def test_operators(text: str, operators: int) -> None:
    assert reasoning_profile(text)["operators"] == operators


@pytest.mark.parametrize(
    ("text", "hedges"),
    [
        ("I guess 3, perhaps 4.", 2),
        ("Assuming it is not given, we assume 5.", 3),
        ("Maybe. MAYBE.", 2),
        ("It is not  sure and unknown", 2),
        ("He is a guest; the consumption is sure, given and known", 0),
    ],
)
def test_hedges(text: str, hedges: int) -> None:
    assert reasoning_profile(text)["hedges"] == hedges


def test_steps_length_truncated() -> None:
    lines = reasoning_profile("one\n\n two\nthree\n")
    assert (lines["steps"], lines["length"], lines["truncated"]) == (3, 16, False)
    assert reasoning_profile("One. Two! Three? 3.5")["steps"] == 3
    assert reasoning_profile("")["steps"] == 0
    assert reasoning_profile("cut", "length")["truncated"]
    assert not reasoning_profile("whole", "stop")["truncated"]


@given(
    st.text()
    | st.lists(
        st.sampled_from(
            ["confidence", "confident", ":", " ", "٣", "0.", "999", "%", "/10", "-", "\n"]
        )
    ).map("".join),
    st.none() | st.text(),
)
@example("confidence" + " is" * 50_000, None)
@example("confidence: " + "9" * 50_000, None)
@example("- " * 50_000, None)
def test_any_text_has_a_profile(text: str, finish_reason: str | None) -> None:
    profile = reasoning_profile(text, finish_reason)
    claim = profile.pop("claimed_confidence")
    assert claim is None or 0.0 <= claim <= 1.0
    assert all(isinstance(value, int) and value >= 0 for value in profile.values())


# --- log-probabilities ----------------------------------------------------------------------


@given(st.lists(st.floats(-1e4, 0.0), min_size=1, max_size=40))
def test_summary_against_numpy(values: list[float]) -> None:
    summary = logprob_summary(values)
    assert summary is not None
    width = min(WINDOW, len(values))
    windows = np.lib.stride_tricks.sliding_window_view(values, width).mean(axis=1)
    assert summary["mean"] == pytest.approx(np.mean(values), abs=1e-9)
    assert summary["total"] == pytest.approx(np.sum(values), abs=1e-9)
    assert summary["lowest_window"] == pytest.approx(windows.min(), abs=1e-9)
    assert summary["tokens"] == len(values)


def test_the_lowest_window_is_where_the_doubt_is() -> None:
    values = [-0.1] * 20 + [-2.0] * 8 + [-0.1] * 20
    summary = logprob_summary(values)
    assert summary is not None
    assert summary["lowest_window"] == pytest.approx(-2.0)
    assert logprob_summary([]) is None
    assert WINDOW == 8  # as the records document


def metadata(*values: Any) -> dict[str, Any]:
    return {"logprobs": {"content": [{"token": "t", "logprob": value} for value in values]}}


def test_good_values_are_read() -> None:
    assert token_logprobs(metadata(-0.5, -1, 0, 0.0)) == [-0.5, -1.0, 0.0, 0.0]
    assert token_logprobs(metadata(-9999.0)) == [-9999.0]  # what vLLM writes for "impossible"
    assert token_logprobs(metadata(1e-6, -1.0)) == [0.0, -1.0]  # rounding


@pytest.mark.parametrize(
    "bad",
    [None, math.nan, math.inf, -math.inf, "-0.5", True, [], 5.0, -1e308, -(10**400)],
    ids=repr,
)
def test_one_bad_value_spoils_all(bad: Any) -> None:
    assert token_logprobs(metadata(-0.5, bad, -0.5)) == []


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"logprobs": None},
        {"logprobs": []},
        {"logprobs": {}},
        {"logprobs": {"content": None}},
        {"logprobs": {"content": {}}},
        {"logprobs": {"content": []}},
        {"logprobs": {"content": [None]}},
        {"logprobs": {"content": [{"token": "a"}]}},
        {"logprobs": {"content": [{"logprob": -1.0}, "x"]}},
    ],
)
def test_other_shapes_have_none(shape: dict[str, Any]) -> None:
    assert token_logprobs(shape) == []


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["logprobs", "content", "logprob", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["logprobs", "finish_reason"]), json_like))
@example(metadata(-1e308, -1e308))
def test_any_metadata_can_be_read(given_metadata: dict[str, Any]) -> None:
    values = token_logprobs(given_metadata)
    assert all(math.isfinite(value) and value <= 0 for value in values)


@given(st.lists(json_like))
@example([-1e308, -1e308])
def test_what_is_read_can_be_summarised(values: list[Any]) -> None:
    summary = logprob_summary(token_logprobs(metadata(*values)))
    if summary is not None:
        assert all(math.isfinite(value) for value in summary.values())
        assert summary["lowest_window"] <= summary["mean"] + 1e-9 <= 1e-9
