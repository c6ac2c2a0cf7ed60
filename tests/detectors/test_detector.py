import math
import threading

import numpy as np
import pytest
import torch
from helpers import Gaussian, clean_images, noise
from sklearn.exceptions import NotFittedError

from pixeldefend.densities import PixelCNNPlusPlus
from pixeldefend.detectors import Detector
from pixeldefend.images.corruptions import corrupt


def test_signs_and_thresholds_agree(tiny_detector):
    x = np.concatenate([clean_images(20, seed=1), noise(20)])
    flagged = tiny_detector.is_adversarial(x)
    assert flagged[20:].all(), "noise is not flagged"
    assert np.array_equal(flagged, tiny_detector.predict(x) == -1)
    assert np.array_equal(flagged, tiny_detector.decision_function(x) < 0)
    assert np.array_equal(flagged, tiny_detector.p_value(x) <= 0.05 + 1e-9)
    np.testing.assert_allclose(
        tiny_detector.decision_function(x), tiny_detector.score_samples(x) - tiny_detector.offset_
    )


def test_judge_says_everything_in_one_pass(tiny_detector):
    x = clean_images(7, seed=2)
    verdicts = tiny_detector.judge(x, maps=True)
    assert np.array_equal(verdicts.is_adversarial, tiny_detector.is_adversarial(x))
    np.testing.assert_allclose(verdicts.p_value, tiny_detector.p_value(x))
    np.testing.assert_allclose(verdicts.score, -tiny_detector.score_samples(x))
    np.testing.assert_allclose(verdicts.bits_per_dim, tiny_detector.bits_per_dim(x))
    np.testing.assert_allclose(verdicts.surprisal_map, tiny_detector.surprisal_map(x))
    assert verdicts.surprisal_map.shape == (7, 8, 8)
    np.testing.assert_allclose(
        verdicts.surprisal_map.sum((1, 2)) / (64 * math.log(2)), verdicts.bits_per_dim, rtol=1e-5
    )


def test_one_image_and_the_same_flattened(tiny_detector):
    x = clean_images(3, seed=3)
    together = tiny_detector.p_value(x)
    assert tiny_detector.p_value(x[0]) == pytest.approx(together[:1])
    assert tiny_detector.p_value(x.reshape(3, 64)) == pytest.approx(together)
    assert tiny_detector.p_value(x.reshape(3, 64) / 255) == pytest.approx(together)
    assert tiny_detector.p_value(torch.from_numpy(x)[:, None]) == pytest.approx(together)
    assert tiny_detector.p_value(np.stack([x] * 3, -1)) == pytest.approx(together)
    assert tiny_detector.p_value(x[:0]).shape == (0,)


def test_batches_do_not_matter(tiny_density):
    x = clean_images(30, seed=4)
    one = Detector(tiny_density, fpr=0.1, batch_size=1).fit(clean_images(30))
    many = Detector(tiny_density, fpr=0.1, batch_size=64).fit(clean_images(30))
    np.testing.assert_allclose(one.score_samples(x), many.score_samples(x), atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_several_threads_score_many_images(tiny_density, threads, monkeypatch):
    detector = Detector(tiny_density, fpr=0.1, batch_size=16).fit(clean_images(30))
    x = np.concatenate([clean_images(40, seed=4), noise(3)])
    expected = detector.judge(x[:5], maps=True)
    used = set()
    conditionals = type(tiny_density).conditionals
    together = threading.Barrier(threads)

    def noted(self, batch):
        used.add(threading.get_ident())
        together.wait(60)  # for the other threads, of which each has a batch
        return conditionals(self, batch)

    monkeypatch.setattr(type(tiny_density), "conditionals", noted)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = detector.judge(x, maps=True)
    assert len(used) == threads
    assert found.is_adversarial[-3:].all(), "the images are in another order"
    np.testing.assert_allclose(found.score[:5], expected.score, atol=1e-4)
    np.testing.assert_allclose(found.surprisal_map[:5], expected.surprisal_map, atol=1e-4)


def test_an_error_in_one_thread_ends_the_others_early(tiny_density, monkeypatch):
    detector = Detector(tiny_density, fpr=0.1, batch_size=4).fit(clean_images(30))
    calls = []

    def failing(self, batch):
        calls.append(len(batch))
        raise ZeroDivisionError

    monkeypatch.setattr(type(tiny_density), "conditionals", failing)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        detector.judge(clean_images(400, seed=1))
    assert len(calls) < 20


def test_a_stricter_or_looser_rate_shares_the_calibration(tiny_detector):
    x = np.concatenate([clean_images(50, seed=6), noise(20)])
    loose, strict = tiny_detector.with_fpr(0.3), tiny_detector.with_fpr(0.01)
    assert (strict.is_adversarial(x) <= loose.is_adversarial(x)).all()
    assert loose.is_adversarial(x).sum() > strict.is_adversarial(x).sum()
    assert np.array_equal(strict.p_value(x), loose.p_value(x))
    assert tiny_detector.fpr == 0.05
    with pytest.raises(ValueError, match="needs at least 199 calibration images, got 99"):
        tiny_detector.with_fpr(0.005)


def test_a_density_that_gives_nan_is_refused_rather_than_trusted():
    class Diverged(Gaussian):
        def log_prob(self, x):
            return super().log_prob(x) * math.nan

    with pytest.raises(ValueError, match="gives NaN"):
        Detector(Diverged(), statistic="bits_per_dim", fpr=0.2).fit(np.random.RandomState(0).randn(20, 3))


def test_dropout_is_off_when_images_are_scored():
    density = PixelCNNPlusPlus((1, 8, 8), filters=4, blocks=1, scales=1, mixtures=2, dropout=0.5).train()
    detector = Detector(density, fpr=0.1).fit(clean_images(20))
    x = clean_images(5, seed=1)
    assert np.array_equal(detector.p_value(x), detector.p_value(x))


def test_a_learned_score_and_its_calibration_share_no_image(tiny_density):
    x = clean_images(50)
    detector = Detector(tiny_density, statistic="typicality", fpr=0.1).fit(x)
    assert len(detector.calibration_scores_) == 40
    bits = Detector(tiny_density, statistic="bits_per_dim", fpr=0.1).fit(x).bits_per_dim(x)
    calibrate = detector.calibration_index_
    learn = np.setdiff1d(np.arange(50), calibrate)
    assert len(learn) == 10
    assert learn.max() > 20  # drawn: images may come sorted by class
    assert detector.score_.center_ == pytest.approx(bits[learn].mean(), rel=1e-5)
    apart = Detector(tiny_density, statistic="typicality", fpr=0.1).fit(x[calibrate], X_fit=x[learn])
    np.testing.assert_allclose(apart.calibration_scores_, detector.calibration_scores_, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fpr": 0}, "strictly between 0 and 1, got 0"),
        ({"fpr": 1}, "strictly between 0 and 1, got 1"),
        ({"fpr": 0.001}, "needs at least 999 calibration images, got 50"),
        ({"fpr": 0.05, "confidence": 0.95}, "needs at least 59 calibration images"),
        ({"fpr": 0.1, "confidence": 2}, "confidence must lie"),
        ({"statistic": "nope"}, "unknown statistic 'nope'"),
        ({"density": None}, "needs a density"),
    ],
)
def test_bad_parameters_are_refused_at_fit(tiny_density, parameters, message):
    detector = Detector(**{"density": tiny_density, **parameters})
    with pytest.raises(ValueError, match=message):
        detector.fit(clean_images(50))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 9, 8), np.uint8), "9 x 8"),
        (np.full((2, 8, 8), np.nan), "NaN"),
        (np.full((2, 8, 8), 255.0), "divide by 255"),
        (np.zeros((2, 63)), "63 features"),
        (np.full((2, 64), 2.0), r"\[0, 1\], got min 2"),
        (np.random.RandomState(0).rand(2, 8, 8, 3), "in colour"),
        ("missing.png", "there is no such file"),
    ],
)
def test_bad_images_are_refused(tiny_detector, x, message):
    with pytest.raises((ValueError, OSError), match=message):
        tiny_detector.p_value(x)


def test_no_image_both_fits_and_calibrates(tiny_density):
    """The fitting set given as the calibration set is refused, a few shared images are not fitted on."""
    fit, calibration = noise(60, seed=1), noise(60, seed=2)
    detector = Detector(tiny_density, statistic="typicality", fpr=0.05)
    with pytest.raises(
        ValueError, match=r"60 of the 60 images to fit the statistic on \(X_fit\) are also calibration images"
    ):
        detector.fit(fit, X_fit=fit)
    honest = detector.fit(calibration, X_fit=fit).score_.center_
    assert len(detector.calibration_scores_) == 60
    mixed = detector.fit(calibration, X_fit=np.concatenate([calibration[:20], fit])).score_.center_
    assert mixed == pytest.approx(honest)  # those 20 did not count


def test_copies_of_calibration_images_are_refused(tiny_density):
    images = np.repeat(noise(50), 2, axis=0)
    with pytest.raises(ValueError, match="50 of 100 calibration images are copies"):
        Detector(tiny_density, fpr=0.05).fit(images)


def test_constant_scores_are_refused(tiny_density):
    """No pixel of these images is below 1 nat, so the score is 0 for all."""

    class Unsure(PixelCNNPlusPlus):
        def conditionals(self, x):
            distribution = super().conditionals(x)
            distribution.log_scales = torch.full_like(distribution.log_scales, 1.0)
            return distribution

    density = Unsure((1, 8, 8), filters=4, blocks=1, scales=1, mixtures=2)
    with pytest.raises(ValueError, match="all 30 calibration images have the score 0"):
        Detector(density, statistic="low_entropy_excess_surprisal", fpr=0.05).fit(noise(30))


def test_the_rate_holds_under_any_of_the_corruptions_calibrated_for(tiny_density):
    names = ("noise-4", "jpeg-50")
    calibration, new = clean_images(300, seed=1), torch.from_numpy(clean_images(300, seed=2))[:, None] / 255
    plain = Detector(tiny_density, fpr=0.1).fit(calibration)
    wide = Detector(tiny_density, fpr=0.1).fit(calibration, corruptions=names)
    for name in names:
        changed = corrupt(new, name, seed=5)
        assert plain.is_adversarial(changed).mean() > 0.16
        assert wide.is_adversarial(changed).mean() < 0.16
    assert wide.is_adversarial(new).mean() <= plain.is_adversarial(new).mean()
    with pytest.raises(ValueError, match="sepia"):
        Detector(tiny_density, fpr=0.1).fit(calibration, corruptions=["sepia"])


def test_a_fit_that_fails_leaves_the_detector_as_it_was(tiny_density):
    x = clean_images(60, seed=1)
    detector = Detector(tiny_density, fpr=0.1)
    with pytest.raises(ValueError, match="sepia"):
        detector.fit(x, corruptions=["sepia"])
    with pytest.raises(ValueError, match="must be a list of names, got 'jpeg-75'"):
        detector.fit(x, corruptions="jpeg-75")
    with pytest.raises(NotFittedError):
        detector.p_value(x)
    before = detector.fit(x).p_value(x)
    with pytest.raises(ValueError, match="calibration images"):
        detector.fit(x[:3])
    assert np.array_equal(detector.p_value(x), before)


def test_who_watches(tiny_density, tmp_path):
    x = clean_images(60, seed=1)
    watch = Detector(tiny_density, fpr=0.1).fit(x).drift_monitor()
    assert watch.alarms(0.01) == {"drift": False, "attacks": False}
    wide = Detector(tiny_density, fpr=0.1).fit(x, corruptions=["jpeg-75"])
    wide.save(tmp_path / "wide.safetensors")
    for detector in (wide, Detector.load(tmp_path / "wide.safetensors"), wide.with_fpr(0.2)):
        with pytest.raises(ValueError, match=r"calibrated for corruptions \(jpeg-75\)"):
            detector.drift_monitor()


def test_too_large_a_batch_for_the_memory_is_split(tiny_density, monkeypatch):
    x = clean_images(120)
    detector = Detector(tiny_density, fpr=0.05, batch_size=64).fit(x[:99])
    expected = detector.judge(x)
    conditionals = type(tiny_density).conditionals

    def short_of_memory(self, batch):
        if len(batch) > 10:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return conditionals(self, batch)

    monkeypatch.setattr(type(tiny_density), "conditionals", short_of_memory)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.warns(UserWarning, match="batch of 64 does not fit into memory; continuing with batches of 32"):
        verdicts = detector.judge(x)
    np.testing.assert_allclose(verdicts.score, expected.score, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(type(tiny_density), "conditionals", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detector.judge(x)


def test_what_a_score_learns_from_is_checked(tiny_density):
    x = clean_images(60)
    with pytest.raises(ValueError, match="typicality learns from at least 2 clean images, got 1"):
        Detector(tiny_density, statistic="typicality", fpr=0.1).fit(x, X_fit=clean_images(1, seed=5))
    with pytest.raises(ValueError, match="copies of others"):
        Detector(tiny_density, statistic="typicality", fpr=0.1).fit(
            x, X_fit=np.repeat(clean_images(2, seed=5), 20, axis=0)
        )
    with pytest.raises(ValueError, match="all 30 scores are 1: a calibration needs"):
        Detector(tiny_density, fpr=0.1).fit(x).with_calibration(np.ones(30))


def test_a_batch_of_no_images_and_one_of_no_size(tiny_density):
    x = clean_images(120)
    detector = Detector(tiny_density, statistic="fused", fpr=0.1).fit(x, X_fit=clean_images(60, seed=3))
    for nothing in ([], torch.empty(0, 1, 8, 8)):
        assert detector.p_value(nothing).shape == detector.judge(nothing).is_adversarial.shape == (0,)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Detector(tiny_density, fpr=0.1, batch_size=0).fit(x)
