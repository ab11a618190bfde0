"""Comparisons: the best baseline at no more tokens, paired intervals, the gate."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from training.evaluate.compare import (
    MethodResult,
    _neighbours,
    best_baseline,
    credited,
    decide_gate,
    describe_failures,
    difference,
    plot,
    results_table,
    summarise,
)
from training.evaluate.votes import Result
from training.learn.measures import wilson


def method(name: str, right: Any, tokens: float = 100.0, **fields: Any) -> MethodResult:
    right = np.array(right, dtype=float)
    return MethodResult(name, right, np.full(len(right), tokens), np.ones(len(right)), **fields)


def share(p: float, count: int = 200) -> list[float]:
    """The first p of `count` questions right."""
    return [float(k < p * count) for k in range(count)]


# --- the best baseline ------------------------------------------------------------------------


def test_the_best_baseline_takes_no_more_tokens() -> None:
    mine = method("mine", share(0.7), 300, kind="learned")
    cheap = method("cheap", share(0.5), 100)
    equal = method("equal", share(0.6), 300)
    dear = method("dear", share(0.9), 300.5)
    twin = method("twin", share(0.6), 250)
    others = [
        method("oracle", share(1.0), 100, kind="oracle"),
        method("control", share(0.9), 100, kind="control"),
        method("learned", share(0.9), 100, kind="learned"),
    ]
    assert best_baseline(mine, [*others, cheap, equal, dear]) is equal
    assert best_baseline(mine, [*others, equal, twin, mine]) is twin  # as good for less
    assert best_baseline(method("m", share(0.7), 300.4), [cheap, equal, dear]) is equal
    assert best_baseline(mine, [*others, dear]) is None


counts = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=8)


@given(counts)
def test_no_allowed_baseline_is_better_than_the_best(given_: list[tuple[int, int]]) -> None:
    mine = method("mine", [1, 0, 1, 0], 3)
    others = [
        method(str(k), [float(i < right) for i in range(4)], cost)
        for k, (right, cost) in enumerate(given_)
    ]
    best = best_baseline(mine, others)
    allowed = [m for m in others if m.tokens.mean() <= 3]
    assert (best is None) == (not allowed)
    if best is not None:
        assert best in allowed
        assert best.accuracy == max(m.accuracy for m in allowed)


# --- differences ------------------------------------------------------------------------------


def test_the_difference_is_paired() -> None:
    # Alike but for a tenth: far surer than the accuracies by themselves, whose errors are 0.035.
    a, b = method("a", share(0.6)), method("b", share(0.5))
    gain = difference(a, b)
    assert gain.mean == pytest.approx(0.1)
    assert 0.05 < gain.low < 0.075 < 0.125 < gain.high < 0.15  # 1.96 sqrt(0.09 / 200) = 0.042
    unpaired = difference(a, method("c", share(0.5)[::-1]))
    assert unpaired.mean == pytest.approx(0.1)
    assert unpaired.low < 0 < 0.2 < unpaired.high
    assert gain == difference(a, b)


def test_the_difference_holds_the_variance_between_fits() -> None:
    # Three fits are right in half, in six tenths and in seven tenths of the questions.
    runs = np.array([share(0.5), share(0.6), share(0.7)])
    learned = method("learned", runs.mean(0), runs=3, by_run=runs)
    alike = method("alike", runs.mean(0))
    vote = method("vote", share(0.5))
    narrow, wide = difference(alike, vote), difference(learned, vote)
    assert wide.mean == pytest.approx(narrow.mean) == pytest.approx(0.1)
    assert wide.low < 0 < narrow.low  # 4.3 * 0.1 / sqrt(3) = 0.25
    # The same fits behind both: what they differ by falls out.
    shifted = method("control", runs.mean(0), by_run=runs)
    assert difference(learned, shifted).low == difference(learned, shifted).high == 0
    # Other numbers of runs cannot be paired, so both variances count.
    two = method("two", runs[:2].mean(0), by_run=runs[:2])
    assert difference(learned, two).low < difference(learned, method("x", two.right)).low


@settings(max_examples=20)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_differences_reversed_are_reversed(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (method("x", side) for side in zip(*pairs, strict=True))
    forth, back = difference(a, b), difference(b, a)
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.low == pytest.approx(-back.high)
    assert forth.low <= forth.mean + 1e-9 <= forth.high + 2e-9
    assert difference(a, a).low == difference(a, a).high == 0


# --- the gate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "baseline", "control", "gate"),
    [
        (0.8, 0.6, 0.6, "pass"),
        (0.8, 0.6, 0.8, "unknown"),  # the control does as well
        (0.8, 0.8, 0.6, "unknown"),
        (0.8, 0.795, 0.6, "unknown"),  # by one question of 200
        (0.8, 0.9, 0.6, "fail"),
        (0.8, 0.6, 0.9, "fail"),
        (0.8, 0.6, None, "unknown"),
        (0.8, None, 0.6, "unknown"),  # no baseline is as cheap
    ],
)
def test_the_gate(mine: float, baseline: Any, control: Any, gate: str) -> None:
    router = method("r", share(mine), 300, kind="learned")
    methods = {"r": router, "oracle": method("oracle", share(1.0), 10, kind="oracle")}
    methods["vote"] = method("vote", share(baseline or 0.9), 300 if baseline else 301)
    if control is not None:
        methods["r: control"] = method("r: control", share(control), 200, kind="control")
    found, evidence = decide_gate(router, methods)
    assert found == gate
    if gate == "unknown":
        reasons = {
            None: "no baseline takes as few tokens",
            0.6: "than r: control",
            0.8: "than vote",
        }
        lacking = "it has no control" if control is None else reasons.get(baseline, "than vote")
        assert lacking in evidence["why"]
    few, why = decide_gate(
        method("r", np.ones(3, bool), 300, kind="learned"),
        {
            "r: control": method("r: control", np.zeros(3, bool), 200, kind="control"),
            "vote": method("vote", np.zeros(3, bool), 300),
        },
    )
    assert (few, why["why"]) == ("unknown", "fewer than 50 questions")
    assert evidence["questions"] == 200
    assert evidence["accuracy"] == pytest.approx(mine)
    assert evidence["tokens"] == 300
    assert ("baseline" in evidence) == (baseline is not None)
    assert ("control" in evidence) == (control is not None)
    if baseline is not None:
        assert evidence["baseline"]["name"] == "vote"
        mean, low, high = evidence["baseline"]["difference"]
        assert mean == pytest.approx(mine - baseline)
        assert low <= mean <= high


# --- the table and the plot -------------------------------------------------------------------


def all_kinds() -> list[MethodResult]:
    return [
        method("dear", share(0.9), 900),
        method("vote", share(0.5), 100, failed=2),
        method(
            "mine",
            share(0.8),
            300,
            kind="learned",
            runs=2,
            spread=0.0123,
            actions={"PERSIST": 0.25, "REFINE": 0.75},
        ),
        method("mine: control", share(0.6), 200, kind="control"),
        method("oracle", share(1.0), 250, kind="oracle"),
    ]


def test_the_table_stands_in_order_of_tokens() -> None:
    lines = results_table(all_kinds()).splitlines()
    names = ["vote", "mine: control", "oracle", "**mine**", "dear"]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert [row[0] for row in cells[2:]] == names
    vote, mine = cells[2], cells[5]
    assert vote[1] == "0.500 ± 0.035"
    assert vote[-1] == "2"
    assert mine[2:6] == ["0.012", "300", "1.0", "PERSIST 25%, REFINE 75%"]
    assert mine[6].startswith("+0.300 [+0.2")
    assert mine[6].endswith("(vote)")
    assert mine[7].startswith("+0.200 [+0.1")


def test_one_question_has_no_standard_error() -> None:
    one = method("one", [1.0])
    assert math.isnan(one.standard_error)
    assert "1.000 ± nan" in results_table([one])
    assert one.accuracy == 1


def test_marks_that_cover_each_other_share_a_label() -> None:
    a, b = method("a", share(0.5), 100), method("b", share(0.51), 104)
    far, other = method("far", share(0.5), 120), method("other", share(0.5), 100, kind="learned")
    groups = [[m.name for m in group] for group in _neighbours([far, b, other, a])]
    assert sorted(groups) == [["a", "b"], ["far"], ["other"]]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(tmp_path / "tokens.png", [*all_kinds(), method("free", share(0.1), 0)])
    assert (tmp_path / "tokens.png").read_bytes().startswith(b"\x89PNG")


def test_columns_without_a_value_are_left_out() -> None:
    heading, *_ = results_table([method("one", [1.0, 0.0])]).splitlines()
    assert heading == "| method | accuracy ± s.e. | tokens | calls |"


def test_what_failed_is_told() -> None:
    assert describe_failures([method("fine", [1.0])]) == ""
    told = describe_failures([method("fine", [1.0]), method("a", [0.0], failed=3, survived=2)])
    assert "Questions that failed, and count as wrong: a 3." in told
    assert "Calls that failed or gave no answer" in told
    assert told.endswith("response: a 2.")
    assert "fine" not in told


@given(st.integers(1, 500), st.data())
def test_intervals_of_accuracies_are_wilsons(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    low, high = wilson(right / count, count)
    known = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert (low, high) == (pytest.approx(known.low, abs=1e-4), pytest.approx(known.high, abs=1e-4))
    assert 0 <= low <= right / count <= high <= 1


def test_a_vote_that_lost_proposals_counts_as_lost() -> None:
    """It was answered all the same, by the others."""
    sound = Result("4", 100, 3, {}, right=True)
    found = summarise("vote", "baseline", [[sound, replace(sound, gaps=2), None]])
    assert found.lost is not None
    assert found.lost.tolist() == [[False, True, True]]
    assert found.failed == 1
    assert credited(found).right.tolist() == [1, 1, 1]
    assert credited(found).tokens.tolist() == [100, 0, 0]


@pytest.mark.parametrize("failing", ["vote", "r: control"])
def test_a_router_does_not_pass_because_its_rivals_failed(failing: str) -> None:
    """All are alike, but one of them failed in a tenth of the questions."""

    def gate(lost: bool) -> tuple[str, dict[str, Any]]:
        methods = {}
        for name, kind in (("r", "learned"), ("vote", "baseline"), ("r: control", "control")):
            better = name == "r" or name == failing
            table = np.array([share(0.8 if better else 0.6)])
            gone = np.zeros_like(table, bool)
            if name == failing:
                gone[0, :200:10] = lost
                table[gone] = 0
            methods[name] = method(
                name, table[0], 300, kind=kind, by_run=table, lost=gone, failed=int(gone.sum()),
            )  # fmt: skip
        return decide_gate(methods["r"], methods)

    assert gate(lost=False)[0] == "unknown"
    found, evidence = gate(lost=True)
    assert found == "unknown"
    assert evidence["why"] == f"{failing} failed on questions that would decide: run again"


def test_a_router_does_not_pass_where_tokens_are_not_known() -> None:
    router = method("r", share(0.8), 300, kind="learned")
    methods = {
        "r": router,
        "vote": method("vote", share(0.6), 300),
        "r: control": method("r: control", share(0.6), 300, kind="control"),
    }
    assert decide_gate(router, methods)[0] == "pass"
    methods["vote"] = method("vote", share(0.6), 300, unreported=3)  # it looks cheaper than it is
    assert decide_gate(router, methods)[0] == "pass"
    router.unreported = 3
    found, evidence = decide_gate(router, methods)
    told = "the endpoint does not tell all tokens of r: use one that reports usage"
    assert (found, evidence["why"]) == ("unknown", told)


def test_a_rival_is_not_priced_out_by_its_failures() -> None:
    """All of its cheap runs failed, and count as the mean of the others, which is too much."""
    table = np.ones((1, 200))
    lost = np.zeros((1, 200), bool)
    lost[0, :60] = True
    table[lost] = 0
    vote = method("vote", table[0], 385.7, by_run=table, lost=lost, failed=60)
    router = method("r", share(0.8), 310, kind="learned")
    methods = {
        "r": router, "vote": vote, "single": method("single", share(0.5), 100),
        "r: control": method("r: control", share(0.6), 300, kind="control"),
    }  # fmt: skip
    found, evidence = decide_gate(router, methods)
    assert (found, evidence["baseline"]["name"]) == ("unknown", "single")
    assert "vote failed on questions that would decide" in evidence["why"]
