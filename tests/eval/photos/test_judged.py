"""What a detector says of files."""

import numpy as np
import pytest

from pixeldefend.eval.metrics import auroc
from pixeldefend.eval.photos.data import png_files
from pixeldefend.eval.photos.judged import RATES, Judge, Judged, detection, ranks


def test_in_one_group_the_ranks_are_those_of_the_scores():
    random = np.random.default_rng(0)
    clean, attacked = random.normal(size=50), random.normal(size=40) + 1
    calibration = np.sort(random.normal(size=30))

    def judged(scores):
        return Judged((1 + len(calibration) - np.searchsorted(calibration, scores)) / 31, scores)

    assert auroc(*ranks(judged(clean), judged(attacked)))[0] == pytest.approx(auroc(clean, attacked)[0])


def test_between_groups_the_p_value_ranks_first():
    low, high = Judged(np.array([0.5]), np.array([100.0])), Judged(np.array([0.01]), np.array([-3.0]))
    (a,), (b,) = ranks(low, high)
    assert b > a
    (a,), (b,) = ranks(low, low)
    assert a == b


def test_an_image_is_detected_at_a_rate_that_its_p_value_does_not_exceed():
    clean = Judged(np.linspace(0.1, 1, 10), np.linspace(0, -1, 10))
    attacked = Judged(np.array([0.01, 0.05, 0.0501, 0.009]), np.array([4.0, 3.0, 2.0, 5.0]))
    row = detection(clean, attacked, [0.01, 0.05])
    assert (row["auroc"], row["tpr_at_fpr_0.01"], row["tpr_at_fpr_0.05"]) == (1, 0.5, 0.75)
    assert row["tpr_at_fpr_0.001"] is None  # the calibration does not allow for it
    assert all(value is None for value in detection(clean, attacked[:0], RATES).values())


def test_a_judge_agrees_with_its_detector(detector, folder, classifier):
    from pixeldefend.eval.photos import read_photographs

    photographs = read_photographs(folder, classifier)
    judge = Judge(detector)
    assert judge.rates == {"roughness": [0.01, 0.05]}  # 120 calibration images
    files = list(photographs.files())
    said = judge([*files, b"no image", *files])
    assert said.refused == 1
    found = said.by["roughness"]
    assert np.array_equal(found.flagged(0.05), np.tile(detector.is_adversarial(photographs.x), 2))
    assert np.array_equal(found.p[:12], detector.p_value(photographs.x))


def test_nothing_is_said_of_no_files(detector):
    said = Judge(detector)(png_files([]))
    assert len(said.by["roughness"]) == said.refused == 0
