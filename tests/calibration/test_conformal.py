"""The promises: uniform p-values, thresholds that agree with them, rates that hold."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import betabinom, binom, kstest

from pixeldefend.calibration.conformal import (
    class_p_values,
    discoveries,
    images_needed,
    over_kinds,
    p_values,
    rank,
    threshold,
)
from pixeldefend.errors import CalibrationError, ParameterError

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=60).map(lambda values: np.array(values, float))
tables = arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.integers(-5, 5).map(float))


@given(calibration=scores, new=scores)
@settings(max_examples=50, deadline=None)
def test_p_value_is_the_permutation_p_value(calibration, new):
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in new]
    assert p_values(new, calibration) == pytest.approx(expected)


@given(table=tables, new=scores)
@settings(max_examples=50, deadline=None)
def test_over_kinds_the_p_value_is_the_highest_of_the_p_values(table, new):
    expected = np.max([p_values(new, row) for row in table], axis=0)
    assert p_values(new, over_kinds(table)) == pytest.approx(expected)
    assert np.array_equal(over_kinds(table, 0.9), table.max(0))
    assert np.array_equal(over_kinds(table[:1]), table[0])  # in the order of the images


@given(calibration=scores, new=scores, fpr=st.floats(0.001, 0.999))
@settings(max_examples=50, deadline=None)
def test_above_the_threshold_is_a_p_value_within_the_rate_ties_included(calibration, new, fpr):
    if len(calibration) < images_needed(fpr):
        with pytest.raises(CalibrationError):
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
@example(fpr=0.5, confidence=0.5000000000000001)
@settings(max_examples=60, deadline=None)
def test_images_needed_is_the_least_number_that_is_not_refused(fpr, confidence):
    n = images_needed(fpr, confidence)
    assert rank(fpr, n, confidence) >= 1
    if n > 1:
        with pytest.raises(CalibrationError, match=rf"\b{n}\b.* {n - 1}\b"):
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
    with pytest.raises(ParameterError, match="fpr"):
        rank(fpr, 1000)


@pytest.mark.parametrize("confidence", [0, 1, math.nan])
def test_confidences_outside_zero_and_one_are_refused(confidence):
    for refuses in (lambda: rank(0.05, 1000, confidence), lambda: images_needed(0.05, confidence)):
        with pytest.raises(ParameterError, match="confidence"):
            refuses()


def test_scores_without_a_rank_are_refused():
    with pytest.raises(ParameterError, match="NaN"):
        threshold(np.r_[np.arange(99.0), math.nan], 0.05)
    with pytest.raises(ParameterError, match="NaN"):
        p_values(np.array([math.nan]), np.arange(9.0))


def test_every_class_keeps_the_rate_where_classes_differ():
    """Class 1 is more anomalous throughout: a pooled threshold flags it far too often, its own does not."""
    random = np.random.RandomState(0)
    flagged, pooled, trials = np.zeros(2), np.zeros(2), 1500
    for _ in range(trials):
        labels, new_labels = np.arange(200) % 2, np.arange(100) % 2
        calibration, new = random.randn(200) + 2 * labels, random.randn(100) + 2 * new_labels
        by_class = class_p_values(new, new_labels, calibration, labels) <= 0.1
        together = p_values(new, calibration) <= 0.1
        flagged += [by_class[new_labels == k].mean() for k in (0, 1)]
        pooled += [together[new_labels == k].mean() for k in (0, 1)]
    assert (flagged / trials <= 0.1 + 0.005).all()
    assert (flagged / trials >= 0.08).all()
    assert pooled[1] / trials > 0.15


def test_a_class_without_calibration_images_is_refused():
    with pytest.raises(CalibrationError, match="3"):
        class_p_values(np.zeros(1), np.array([3]), np.zeros(5), np.zeros(5, dtype=int))


def test_false_discoveries_are_within_the_rate():
    """A tenth of each batch is attacked; the share of clean images among those flagged, on average over batches."""
    random = np.random.RandomState(0)
    shares, found = [], []
    for _ in range(300):
        attacked = np.arange(100) < 10
        flagged = discoveries(p_values(random.randn(100) + 5 * attacked, random.randn(1000)), 0.2)
        shares.append((flagged & ~attacked).sum() / max(1, flagged.sum()))
        found.append(flagged[attacked].mean())
    assert np.mean(shares) <= 0.2
    assert np.mean(shares) >= 0.1  # by theory 0.2 x 0.9, less what ranks round off
    assert np.mean(found) > 0.9


@given(p=st.lists(st.floats(1e-6, 1), min_size=1, max_size=30).map(np.array), fdr=st.floats(0.01, 0.5))
@settings(max_examples=50, deadline=None)
def test_discoveries_are_those_of_the_step_up_rule(p, fdr):
    n = len(p)
    within = [k for k in range(1, n + 1) if np.sort(p)[k - 1] <= k * fdr / n + 1e-12]
    assert np.array_equal(discoveries(p, fdr), p <= (np.sort(p)[max(within) - 1] if within else 0))


def test_what_are_no_p_values_are_refused():
    with pytest.raises(ParameterError, match="0 to 2"):
        discoveries(np.array([0.0, 2.0]), 0.1)
    with pytest.raises(ParameterError, match="fdr"):
        discoveries(np.array([0.5]), 1)
    assert discoveries(np.zeros(0), 0.1).shape == (0,)
