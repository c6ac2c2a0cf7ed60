"""Rates of false alarms hold within each category, whatever its scores."""

import numpy as np
import pytest

from pixeldefend.calibration import conformal
from pixeldefend.calibration.mondrian import OWN_IMAGES_OF_A_CATEGORY, Mondrian, shared_groups
from pixeldefend.errors import CalibrationError

SIZES = (3000, 1500, 40, 2)  # of the categories; the last two are rare
SHIFTS = np.array([0.0, 5.0, 2.0, -3.0])


def drawn(sizes, seed):
    categories = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).normal(SHIFTS[categories]), categories


def made(scores, categories, own=None, **options):
    own = np.zeros(len(scores), dtype=bool) if own is None else own
    return Mondrian(scores, categories, own, len(SIZES), **{"fpr": 0.05, "confidence": None, **options})


def certain(categories):
    return np.eye(len(SIZES) + 1)[categories][:, :-1]


def test_the_rate_holds_within_each_category():
    mondrian = made(*drawn(SIZES, 0))
    scores, categories = drawn((4000, 4000), 1)
    p, thresholds = mondrian.judge(scores, categories, certain(categories))
    for category in (0, 1):
        assert (p[categories == category] <= 0.05).mean() == pytest.approx(0.05, abs=0.015)
    np.testing.assert_array_equal(p <= 0.05, scores > thresholds)
    assert thresholds[0] == mondrian.threshold(0) < mondrian.threshold(1) == thresholds[-1]


def test_rare_categories_share_a_group_with_the_next_larger_ones():
    groups = shared_groups(*drawn(SIZES, 0), len(SIZES), 1000)
    assert [len(group) for group in groups] == [3000, 1542, 1542, 1542]
    assert groups[1] is groups[2] is groups[3]


def test_an_image_of_no_category_or_of_several_has_the_greatest_p_value():
    scores, categories = drawn(SIZES, 0)
    mondrian = made(scores, categories)
    expected = [conformal.p_values(np.array([3.0]), group)[0] for group in mondrian.groups[4]]
    assert len({round(p, 4) for p in expected}) == 2
    for category, probabilities in ((4, [0.7, 0.1, 0.1, 0.1]), (0, [0.6, 0.3, 0.05, 0.05])):
        p, _ = mondrian.judge(np.array([3.0]), np.array([category]), np.array([probabilities]))
        assert p[0] == max(expected)
    p, _ = mondrian.judge(np.array([3.0]), np.array([0]), np.array([[0.9, 0.1, 0, 0]]))
    assert p[0] == min(expected)


@pytest.mark.parametrize("count", [OWN_IMAGES_OF_A_CATEGORY, OWN_IMAGES_OF_A_CATEGORY - 1])
def test_a_category_with_many_images_of_a_user_is_judged_by_these_alone(count):
    scores, categories = drawn(SIZES, 0)
    own = np.arange(count)
    mondrian = made(
        np.r_[scores, own], np.r_[categories, np.ones(count, int)], np.arange(len(scores) + count) >= len(scores)
    )
    alone = count == OWN_IMAGES_OF_A_CATEGORY
    assert (mondrian.alone == {1}) == alone
    assert [len(group) for group in mondrian.groups[1]] == ([count] if alone else [1542, count])
    assert [len(group) for group in mondrian.groups[0]] == [3000]


def test_too_few_images_are_refused():
    with pytest.raises(CalibrationError, match="at least 19"):
        made(*drawn((18,), 0))
    with pytest.raises(CalibrationError, match="at least 19"):
        made(np.zeros(50), np.full(50, len(SIZES)))
