"""Risk control: the test of a bar, the sequence of bars, and that the promise holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import beta

from mpdf_langgraph.risk import MISTRUST, RiskCurve, Step, count_errors, keeps_promise


@given(accepted=st.integers(1, 2000), share=st.floats(0, 1), risk=st.floats(0.005, 0.5))
def test_a_bar_passes_by_clopper_and_pearson(accepted: int, share: float, risk: float) -> None:
    wrong = int(share * accepted)
    upper = beta.ppf(1 - MISTRUST, wrong + 1, accepted - wrong) if wrong < accepted else 1.0
    if abs(upper - risk) > 1e-9:
        assert keeps_promise(accepted, wrong, risk) == (upper <= risk)


def curve(*steps: tuple[float, int, int, float]) -> RiskCurve:
    return RiskCurve(tuple(Step(bar=b, accepted=n, wrong=k, doubt=d) for b, n, k, d in steps))


def test_the_last_bar_before_the_first_failure_counts() -> None:
    steps = (0.9, 200, 1, 2.0), (0.8, 300, 5, 9.0), (0.7, 400, 40, 20.0), (0.6, 9000, 50, 2e3)
    assert curve(*steps).bar(0.05) == 0.8
    assert curve((0.9, 200, 30, 2.0), (0.8, 3000, 31, 300.0)).bar(0.05) is None
    assert curve().bar(0.05) is None
    assert curve((0.9, 0, 0, 0.0)).bar(0.05) is None
    # Few answers cannot tell, whatever they are: the sequence starts where it should pass.
    assert curve((0.99, 20, 1, 0.1), (0.9, 200, 1, 2.0)).bar(0.05) == 0.9


def test_an_unsound_curve_is_refused() -> None:
    for wrong in (
        ((0.5, 1, 0, 0.1), (0.6, 2, 0, 0.1)),
        ((0.6, 2, 0, 0.1), (0.5, 1, 0, 0.1)),
        ((0.6, 2, 2, 0.1), (0.5, 3, 1, 0.1)),
        ((0.6, 1, 2, 0.1),),
        ((0.6, 2, 1, -0.1),),
    ):
        with pytest.raises(ValidationError):
            curve(*wrong)


def test_the_promise_holds_on_fresh_questions() -> None:
    """Right in at least 95 % of 200 draws, where the probabilities are wrong, too."""
    rng = np.random.default_rng(0)
    bars = np.linspace(0.3, 0.99, 40).tolist()
    kept = accepted = 0
    for _ in range(200):
        told = rng.uniform(0.2, 1.0, 600)
        true = told**1.2  # overconfident
        checked = count_errors(bars, told.tolist(), (rng.random(600) < true).tolist())
        bar = checked.bar(0.25)
        fresh = rng.uniform(0.2, 1.0, 100_000)
        over = fresh[fresh >= (2.0 if bar is None else bar)]
        accepted += bool(len(over))
        kept += not len(over) or 1 - (over**1.2).mean() <= 0.25
    assert kept >= 190
    assert accepted >= 150
