"""Platt scaling finds what was done to a confidence. Measures of confidences are exact."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from mpdf_langgraph.calibration import EDGE, Curve
from training.learn.calibrate import apply_curve, fit_curve
from training.learn.measures import (
    auroc,
    mean_interval,
    quality,
    reliability,
    widen_by_fits,
)

shares = st.floats(0, 1)
judged = st.lists(st.tuples(shares, st.booleans()), max_size=30)


def arrays(pairs):
    return (
        np.array([c for c, _ in pairs], float),
        np.array([r for _, r in pairs], float),
    )


def simulated(slope, shift, seed, count=20_000):
    """Confidences of which a curve of this slope and shift is the truth."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(2, 2, count)
    truth = expit(slope * logit(np.clip(confidence, EDGE, 1 - EDGE)) + shift)
    return confidence, (rng.random(count) < truth).astype(float)


@settings(max_examples=20)
@given(slope=st.floats(0.3, 2.5), shift=st.floats(-1, 1), seed=st.integers(0, 10**6))
def test_fit_finds_the_slope_and_the_shift(slope, shift, seed):
    confidence, right = simulated(slope, shift, seed)
    fitted = fit_curve(confidence, right)
    assert fitted.slope == pytest.approx(slope, abs=0.15)
    assert fitted.shift == pytest.approx(shift, abs=0.12)
    raw, mended = (quality(c, right) for c in (confidence, apply_curve(fitted, confidence)))
    assert mended["log_loss"] <= raw["log_loss"] + 1e-4
    assert mended["ece"] < 0.025
    assert mended["auroc"] == pytest.approx(raw["auroc"], abs=1e-6)


def test_a_confidence_that_says_the_opposite_is_worth_nothing():
    confidence, right = simulated(-1.0, 0.0, 0)
    fitted = fit_curve(confidence, right)
    assert fitted.slope == 0
    assert fitted(0.9) == fitted(0.1) == pytest.approx(right.mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("confidence", "right"),
    [([], []), ([0.2, 0.7], [1, 1]), ([0.2, 0.7], [0, 0]), ([0.4] * 5, [0, 1, 0, 1, 1])],
)
def test_nothing_to_learn_from_gives_the_identity(confidence, right):
    fitted = fit_curve(np.array(confidence, float), np.array(right, float))
    assert fitted == Curve(slope=1.0, shift=0.0)


def test_perfect_separation_has_a_slope_that_ends():
    confidence = np.array([0.2, 0.3, 0.7, 0.8])
    fitted = fit_curve(confidence, np.array([0.0, 0.0, 1.0, 1.0]))
    assert 0 < fitted.slope < 20
    # As Platt's targets have it: with two of each, (2 + 1)/(2 + 2) and its complement.
    assert np.allclose(apply_curve(fitted, confidence)[[0, 3]], [0.25, 0.75], atol=0.15)


@given(judged, st.floats(0.1, 5), st.floats(-3, 3))
def test_applied_confidences_keep_their_order(pairs, slope, shift):
    confidence, _ = arrays(pairs)
    applied = apply_curve(Curve(slope=slope, shift=shift), confidence)
    assert ((applied >= 0) & (applied <= 1)).all()
    order = np.argsort(confidence, kind="stable")
    assert (np.diff(applied[order]) >= 0).all()
    same = apply_curve(Curve(slope=1.0, shift=0.0), confidence)
    assert np.allclose(same, np.clip(confidence, EDGE, 1 - EDGE))


@given(judged, st.integers(1, 20))
def test_bins_hold_everyone_once(pairs, bins):
    confidence, right = arrays(pairs)
    curve = reliability(confidence, right, bins)
    assert sum(count for _, _, count in curve) == len(pairs)
    assert sum(share * count for _, share, count in curve) == pytest.approx(right.sum())
    assert sum(mean * count for mean, _, count in curve) == pytest.approx(confidence.sum())
    means = [mean for mean, _, _ in curve]
    assert means == sorted(means)
    assert len(curve) <= bins


@given(judged)
def test_auroc_counts_pairs(pairs):
    confidence, right = arrays(pairs)
    good, bad = confidence[right == 1], confidence[right == 0]
    wins = [(a > b) + (a == b) / 2 for a in good for b in bad]
    found = auroc(confidence, right)
    if wins:
        assert found == pytest.approx(np.mean(wins))
    else:
        assert math.isnan(found)


def test_quality_by_hand():
    found = quality(np.array([0.9, 0.8, 0.3]), np.array([1.0, 0.0, 0.0]))
    assert found["brier"] == pytest.approx((0.1**2 + 0.8**2 + 0.3**2) / 3)
    assert found["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.2) + math.log(0.7)) / 3)
    assert found["ece"] == pytest.approx((0.1 + 0.8 + 0.3) / 3)
    assert (found["auroc"], found["count"]) == (1.0, 3)


def test_quality_of_nothing_is_unknown():
    found = quality(np.array([]), np.array([]))
    assert found.pop("count") == 0
    assert all(math.isnan(value) for value in found.values())


# --- intervals over questions and fits --------------------------------------------------------


def test_fits_that_are_alike_widen_nothing():
    one = np.random.default_rng(0).random((1, 50)).round()
    found = mean_interval(one[0], np.arange(50))
    assert widen_by_fits(found, one) == found
    assert widen_by_fits(found, np.repeat(one, 3, axis=0)) == found


def test_fits_that_differ_widen_the_interval_by_students_t():
    table = np.array([[0.4], [0.5], [0.6]]) * np.ones(200)
    found = widen_by_fits(mean_interval(table.mean(0), np.arange(200)), table)
    half = 4.303 * 0.1 / math.sqrt(3)  # t with two degrees of freedom, and the questions are alike
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-3)


@pytest.mark.parametrize("between", [0.0, 0.02, 0.05])
def test_the_interval_covers_the_mean_of_all_fits(between):
    rng = np.random.default_rng(1)
    covered, alone = 0, 0
    for _ in range(200):
        shares = np.clip(rng.beta(3, 2, 300) + rng.normal(0, between, (3, 1)), 0, 1)
        table = np.where(rng.random((3, 300)) < 0.8, rng.random(300), rng.random((3, 300)))
        table = (table < shares).astype(float)
        narrow = mean_interval(table.mean(0), np.arange(300), samples=200)
        wide = widen_by_fits(narrow, table)
        covered += wide.low <= 0.6 <= wide.high
        alone += narrow.low <= 0.6 <= narrow.high
    assert covered >= 0.9 * 200
    if between == 0.05:
        assert alone < 0.85 * 200  # so the questions alone are not enough
