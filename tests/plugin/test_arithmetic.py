"""Equations in plain text: which are checked, and which do not hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph.arithmetic import equations_of, leaves_result, numbers_of


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
    assert [equation.holds for equation in equations_of(text)] == [True]


@pytest.mark.parametrize("text", ["4 x 6 = 25", "20 - 5 = 16.", "10 / 4 = 2", "1,000 + 1 = 1,100"])
def test_an_equation_that_does_not_hold(text: str) -> None:
    assert [equation.holds for equation in equations_of(text)] == [False]


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
    assert equations_of(text) == []


@given(
    st.lists(st.integers(1, 99), min_size=2, max_size=6),
    st.sampled_from(["", " pens", " pens per day"]),
    st.sampled_from([0, 50]),
)
def test_sums_are_checked_whatever_the_units(numbers: list[int], unit: str, off: int) -> None:
    text = " + ".join(f"{n}{unit}" for n in numbers) + f" = {sum(numbers) + off}{unit}."
    (equation,) = equations_of(text)
    assert equation == (tuple(numbers), sum(numbers) + off, off == 0)


@given(st.text(alphabet="0123456789.,+-*/×x=()% ab?!\n", max_size=200))
def test_any_text_is_read(text: str) -> None:
    equations = equations_of(text)
    assert len(equations) <= text.count("=")
    assert leaves_result(equations) in (True, False)
    assert all(number >= 0 for number in numbers_of(text))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("2 + 3 = 5. 5 * 4 = 20.", False),
        ("2 + 3 = 5. 4 * 4 = 16.", True),
        ("2 + 3 = 5. 4 * 4 = 16. 16 + 5 = 21.", False),
        ("20 / 50 = 40%. 40% * 80 = 32.", False),
        ("1 / 10 = 0.1. 2 / 10 = 0.2. 0.1 + 0.2 = 0.3.", False),
        ("2 + 3 = 5.", False),
        ("No equation.", False),
    ],
)
def test_a_result_that_nothing_goes_on_with(text: str, left: bool) -> None:
    assert leaves_result(equations_of(text)) is left
