import dataclasses

import numpy as np
from helpers import randomised

from pixeldefend.densities import build
from pixeldefend.detectors import Detector
from pixeldefend.eval.detection import Scorer, calibrated, detection_rates, histograms, roc_points, usual_statistics
from pixeldefend.eval.oracle import oracle_rates
from pixeldefend.scores import EXPENSIVE, SCORES


def test_an_oracle_learns_nothing_from_noise():
    random = np.random.RandomState(0)
    base, jitter = random.randn(300, 3), 0.01 * random.randn(250, 3)
    clean = {str(k): base[:, k] for k in range(3)}
    attacked = {str(k): base[:250, k] + jitter[:, k] for k in range(3)}
    found = oracle_rates(clean, attacked, np.arange(250))
    assert 0.4 < found["auroc"] < 0.6
    assert found["tpr_at_fpr_0.01"] < 0.06


def test_detection_over_no_image_is_none():
    row = detection_rates(np.arange(9.0), np.empty(0), {0.01: 8.0}, "_all")
    assert set(row) == {"auroc_all", "auroc_all_ci", "tpr_all_at_fpr_0.01", "tpr_all_at_fpr_0.01_ci"}
    assert set(row.values()) == {None}


def test_roc_points_are_what_is_reached_without_exceeding_a_rate():
    points = roc_points(np.arange(10.0), np.array([8.5, 3.5]))
    by_rate = dict(zip(points["fpr"], points["tpr"], strict=True))
    assert by_rate[0.1] == 0.5
    assert by_rate[1.0] == 1.0


def test_histograms_count_every_image_and_show_the_clean_ones():
    values = {"clean": np.linspace(0, 1, 50), "pgd-8": np.full(7, 1e4)}
    found = histograms(values)
    assert {kind: sum(counts) for kind, counts in found["counts"].items()} == {"clean": 50, "pgd-8": 7}
    assert found["counts"]["pgd-8"][-1] == 7
    assert found["edges"][-1] < 10


def test_a_detector_keeps_its_own_calibration_and_the_others_get_theirs(detector, data):
    functions, calibration = calibrated(Scorer(detector), ["bits_per_dim", "typicality", "excess_surprisal"], data)
    assert functions["excess_surprisal"] is None
    assert calibration["excess_surprisal"] is detector.calibration_scores_
    np.testing.assert_allclose(calibration["bits_per_dim"], detector.bits_per_dim(data.calibration.x), rtol=1e-5)
    scores = Scorer(detector)(functions, data.test.x)
    np.testing.assert_allclose(scores["excess_surprisal"], -detector.score_samples(data.test.x), rtol=1e-5)


def test_statistics_that_a_density_cannot_have_are_left_out(detector, data):
    few, lines = dataclasses.replace(data, fit=data.fit[:20]), []
    assert "fused" not in usual_statistics(Scorer(detector), few, lines.append)
    assert any("fused" in line for line in lines)
    binary = randomised(build({"model": "fvsbn", "event_shape": [1, 8, 8], "head": "bernoulli"}))
    of_bits = Scorer(Detector(binary, statistic="bits_per_dim", fpr=0.05).fit(data.calibration.x))
    names = usual_statistics(of_bits, data, lines.append)
    assert set(names) == set(SCORES) - set(EXPENSIVE) - {"surprisal_given_length"}
