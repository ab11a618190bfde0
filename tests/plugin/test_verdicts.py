"""What is read off a critic's reply, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from mpdf_langgraph.errors import EndpointError
from mpdf_langgraph.verdicts import (
    NoVerdictError,
    reasoned_yes_probability,
    stated_probability,
    yes_probability,
)
from tests.support.scripted import WRITTEN, checked, verdict

NAN = float("nan")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (verdict([("yes", 0.6), ("no", 0.4)]), 0.6),
        (verdict([("yes", 0.3), ("no", 0.1)]), 0.75),
        (verdict([(" Yes", 0.3), ("YES", 0.2), ("yes.", 0.1), ("No", 0.2)]), 0.75),
        (verdict([("▁yes", 0.3), ("Ġno", 0.1)]), 0.75),
        (verdict([("y", 0.4), ("n", 0.1)], [("es", 1.0)]), 0.8),
        (verdict([("ye", 0.2), ("y", 0.2), ("no", 0.1)]), 0.8),
        (verdict([(" \n", 1.0)], [("yes", 0.9), ("no", 0.1)]), 0.9),
        (verdict([("yes", 0.9), ("maybe", 0.1)]), 1.0),
        (verdict([("no", 0.9), ("maybe", 0.1)]), 0.0),
        (verdict([("yes", NAN), ("no", 0.5)]), 0.0),
        (verdict([("yes", 0.5), ("no", 0.5), ("noyes", 0.9), ("not", 0.9)]), 0.5),
    ],
)
def test_yes_probability(reply: AIMessage, expected: float) -> None:
    assert yes_probability(reply) == pytest.approx(expected)


@pytest.mark.parametrize(
    "reply",
    [
        verdict([("yes", NAN), ("no", NAN)]),
        verdict([("yes", "-0.1"), ("no", None)]),
        verdict([]),
        verdict(),
        AIMessage("yes"),
        AIMessage("yes", response_metadata={"logprobs": None}),
        AIMessage("yes", response_metadata={"logprobs": []}),
        AIMessage("yes", response_metadata={"logprobs": "none"}),
        AIMessage("yes", response_metadata={"logprobs": {"content": None}}),
        AIMessage("yes", response_metadata={"logprobs": {"content": [None, "x", 3]}}),
        AIMessage("yes", response_metadata={"logprobs": {"content": [{"top_logprobs": [None]}]}}),
        "yes",
        None,
    ],
)
def test_no_usable_verdict(reply: Any) -> None:
    with pytest.raises(EndpointError, match="yes or no"):
        yes_probability(reply)


def test_neither_yes_nor_no_is_told_apart_from_no_log_probabilities() -> None:
    with pytest.raises(NoVerdictError, match="neither yes nor no"):
        yes_probability(verdict([("maybe", 0.9), ("sure", 0.1)]))
    with pytest.raises(EndpointError) as found:
        yes_probability(AIMessage("yes"))
    assert not isinstance(found.value, NoVerdictError)


@given(
    yes_mass=st.lists(st.floats(1e-6, 1), min_size=1, max_size=3),
    no_mass=st.lists(st.floats(1e-6, 1), min_size=1, max_size=3),
)
def test_verdict_is_the_share_of_all_spellings(yes_mass: list[float], no_mass: list[float]) -> None:
    pairs = list(zip(["yes", " Yes", "y"], yes_mass, strict=False))
    pairs += zip(["no", "NO", "▁n"], no_mass, strict=False)
    expected = sum(yes_mass) / (sum(yes_mass) + sum(no_mass))
    assert yes_probability(verdict(pairs)) == pytest.approx(expected)
    assert yes_probability(verdict(pairs[::-1])) == pytest.approx(expected)


def test_stated_probability() -> None:
    assert stated_probability(AIMessage('{"probability": 0.25}')) == 0.25
    assert stated_probability('Sure! {"probability": 1}\n') == 1.0
    for text, stated in (("0.8", 0.8), ("80%", 0.8), ("`80 %`.\n", 0.8), ("1", 1.0), (".5", 0.5)):
        assert stated_probability(AIMessage(text)) == stated
    assert stated_probability('{"probability": "80%"}') == 0.8
    for text in ("1.5", "95", "120%", "-0.5", "0.5 or so", "nan", "Answer: 0.5"):
        with pytest.raises(EndpointError):
            stated_probability(text)
    for text in ("", "{}", "[1]", '{"p": 1}', "{" * 9000, '{"probability": 0.5'):
        with pytest.raises(EndpointError):
            stated_probability(text)
    for value in ("1.5", "-0.1", "NaN", "true", '"high"', "null", "9" * 400):
        with pytest.raises(EndpointError):
            stated_probability(f'{{"probability": {value}}}')


def test_the_verdict_after_a_check_is_its_last_word() -> None:
    sure = (0.9 * 1.0 * 0.7 * 0.9) ** (1 / 4)
    assert reasoned_yes_probability(WRITTEN) == pytest.approx(0.5 + (0.7 / 0.8 - 0.5) * sure)
    spelled = checked("4. **Yes**", [("4", 1.0)], [("y", 0.3), ("n", 0.1)], [("es", 1.0)])
    assert reasoned_yes_probability(spelled) == pytest.approx(0.5 + 0.25 * 0.3 ** (1 / 3))


@given(
    verdicts=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
    sure=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
)
def test_an_unsure_check_counts_less_either_way(
    verdicts: tuple[float, float], sure: tuple[float, float]
) -> None:
    def judged(yes: float, written: float) -> float:
        word = "yes" if yes >= 0.5 else "no"
        pairs = [("yes", yes), ("no", 1 - yes)]
        last = pairs if word == "yes" else pairs[::-1]
        return reasoned_yes_probability(checked(f"4 {word}", [("4", written)], last))

    v, w = verdicts
    found = judged(v, sure[0])
    assert 0.0 <= found <= 1.0
    assert (found - 0.5) * (v - 0.5) >= 0
    less, more = sorted(sure)
    assert abs(judged(v, less) - 0.5) <= abs(judged(v, more) - 0.5) + 1e-12
    if min(v, w) >= 0.5:  # a surer yes is never worth less
        assert judged(min(v, w), less) <= judged(max(v, w), more) + 1e-12


@pytest.mark.parametrize(
    "reply",
    [
        checked("yes, as 2 + 2 =", [("yes", 0.9), ("no", 0.1)], [("=", 1.0)]),  # cut
        checked("I say no more than this: nono", [("no", 1.0)]),
        AIMessage("2 + 2 = 4, yes"),
        checked("so yes", [("so", 1.0)], [("indeed", 1.0)]),
        checked("4 yes", [("4", NAN)], [("yes", 0.9), ("no", 0.1)]),
        AIMessage(""),
        "yes",
        None,
    ],
)
def test_a_check_without_a_usable_verdict(reply: Any) -> None:
    with pytest.raises(EndpointError, match="yes or no"):
        reasoned_yes_probability(reply)


def test_a_number_in_a_thought_is_not_stated() -> None:
    reply = AIMessage('<think>{"probability": 0.9}? Rather not.</think>{"probability": 0.2}')
    assert stated_probability(reply) == 0.2
    with pytest.raises(EndpointError, match="expected a JSON probability"):
        stated_probability(AIMessage('<think>{"probability": 0.9}'))


def test_a_verdict_in_an_unfinished_thought_is_none() -> None:
    with pytest.raises(EndpointError, match="does not end with yes or no"):
        reasoned_yes_probability(checked("<think>Perhaps yes", [("yes", 0.9), ("no", 0.1)]))
