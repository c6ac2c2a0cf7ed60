"""The promises: uniform p-values, thresholds that agree with them, rates that hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, kstest

from pixeldefend.conformal import images_needed, p_values, rank, threshold

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=60).map(lambda values: np.array(values, float))


@given(calibration=scores, new=scores)
def test_p_value_is_the_permutation_p_value(calibration, new):
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in new]
    assert p_values(new, calibration) == pytest.approx(expected)


@given(calibration=scores, new=scores, fpr=st.floats(0.001, 0.999))
def test_above_the_threshold_is_a_p_value_within_the_rate_ties_included(calibration, new, fpr):
    if len(calibration) < images_needed(fpr):
        with pytest.raises(ValueError, match="calibration images"):
            rank(fpr, len(calibration))
        return
    flagged = new > threshold(calibration, fpr)
    p = p_values(new, calibration)
    assert np.array_equal(flagged, p <= rank(fpr, len(calibration)) / (len(calibration) + 1) + 1e-12)
    assert (p[flagged] <= fpr + 1e-8).all()


def test_p_values_of_clean_scores_are_uniform():
    random = np.random.RandomState(0)
    p = np.concatenate([p_values(random.randn(20), random.randn(199)) for _ in range(300)])
    # 200 equally likely values: spread each over its step to compare with the continuous uniform
    assert kstest(p - random.uniform(0, 1 / 200, len(p)), "uniform").pvalue > 0.01


@given(fpr=st.floats(0.001, 0.9), confidence=st.one_of(st.none(), st.floats(0.5, 0.999)))
@settings(max_examples=60, deadline=None)
def test_images_needed_is_the_least_number_that_is_not_refused(fpr, confidence):
    n = images_needed(fpr, confidence)
    assert rank(fpr, n, confidence) >= 1
    if n > 1:
        with pytest.raises(ValueError, match=f"needs at least {n} calibration images, there are {n - 1}"):
            rank(fpr, n - 1, confidence)


def test_known_ranks():
    assert rank(0.01, 99) == 1
    assert rank(0.05, 19) == 1
    assert rank(0.01, 4999) == 50
    assert images_needed(0.01) == 99
    assert images_needed(0.05, 0.95) == 59  # Wilks (1941)
    assert rank(0.05, 59, 0.95) == 1
    assert rank(0.05, 93, 0.95) == 2


def test_marginal_rate_of_false_alarms():
    random = np.random.RandomState(1)
    n, m, repeats, fpr = 199, 50, 2000, 0.05
    alarms = sum((random.randn(m) > threshold(random.randn(n), fpr)).sum() for _ in range(repeats))
    k = rank(fpr, n)
    mean, variance = betabinom(m, k, n + 1 - k).stats()
    assert abs(alarms / repeats - mean) < 4 * math.sqrt(variance / repeats)
    assert mean / m <= fpr


def test_rate_with_confidence_holds_as_often_as_promised():
    random = np.random.RandomState(2)
    n, repeats, fpr, confidence = 500, 2000, 0.05, 0.9
    # scores are uniform, so the true rate above a threshold t is 1 - t
    kept = sum(1 - threshold(random.uniform(size=n), fpr, confidence) <= fpr for _ in range(repeats))
    assert binom.cdf(kept, repeats, confidence) > 0.001
    kept_without = sum(1 - threshold(random.uniform(size=n), fpr) <= fpr for _ in range(repeats))
    assert kept_without < kept


@pytest.mark.parametrize("fpr", [0, 1, -0.1, 1.5, math.nan])
def test_rates_outside_zero_and_one_are_refused(fpr):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        rank(fpr, 1000)


@pytest.mark.parametrize("confidence", [0, 1, math.nan])
def test_confidences_outside_zero_and_one_are_refused(confidence):
    with pytest.raises(ValueError, match="confidence must lie"):
        rank(0.05, 1000, confidence)
