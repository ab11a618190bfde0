"""Equations in plain text: which are checked, and which do not hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph.arithmetic import check_equations, numbers_of


@pytest.mark.parametrize(
    "text",
    [
        "4 boxes x 6 pens = 24 pens",
        "3x4=12",
        "20 - 5 - 3 = 12",
        "2 + 3 * 4 = 14",
        "$12 + 5*$3 + 4*$1.50 = $33",
        "1,000 ÷ 8 = 125",
        "20 / 50 = 40%",
        "20 / 50 = 40",
        "50% * 20 = 10",
        "1 / 3 = 0.33",
        "a 3-egg omelet. 12 + 1 = 13.",
        "She eats 3, so 4 + 5 = 9",
        "3 + 4 = 7 = 7",
    ],
)
def test_an_equation_that_holds(text: str) -> None:
    assert check_equations(text) == (1, 0)


@pytest.mark.parametrize("text", ["4 x 6 = 25", "20 - 5 = 16.", "10 / 4 = 2", "1,000 + 1 = 1,100"])
def test_an_equation_that_does_not_hold(text: str) -> None:
    assert check_equations(text) == (1, 1)


@pytest.mark.parametrize(
    "text",
    [
        "33 + 8.50x = 50",
        "7x + 11x = 162",
        "2 * (3 + 4) = 15",
        "(3 + 4) * 2 = 15",
        "8 * 2 = 4 * 5",
        "1 / 0 = 3",
        "50% of 20 = 11",
        "at most max 5 = 3",
        "-3 + 5 = 3",
        "x = 5",
        "4 eggs. 3 = 3",
        "",
    ],
)
def test_what_cannot_be_checked_is_passed_over(text: str) -> None:
    assert check_equations(text) == (0, 0)


@given(
    st.lists(st.integers(1, 99), min_size=2, max_size=6),
    st.sampled_from(["", " pens", " pens per day"]),
    st.sampled_from([0, 50]),
)
def test_sums_are_checked_whatever_the_units(numbers: list[int], unit: str, off: int) -> None:
    text = " + ".join(f"{n}{unit}" for n in numbers) + f" = {sum(numbers) + off}{unit}."
    assert check_equations(text) == (1, int(off > 0))


@given(st.text(alphabet="0123456789.,+-*/×x=()% ab?!\n", max_size=200))
def test_any_text_is_read(text: str) -> None:
    checked, false = check_equations(text)
    assert 0 <= false <= checked <= text.count("=")
    assert all(number >= 0 for number in numbers_of(text))
