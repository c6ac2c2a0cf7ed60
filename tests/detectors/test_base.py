"""What every detector promises, whatever its anomaly score."""

import numpy as np
import pytest
import torch
from helpers import clean_images
from scipy.stats import binom

from pixeldefend import FunctionDetector
from pixeldefend.detectors import ConformalDetector, Detector
from pixeldefend.errors import CalibrationError, ModelError, ParameterError
from pixeldefend.images.corruptions import corrupt
from pixeldefend.serialization import load_tensors, save_tensors


class Roughness(ConformalDetector):
    """A third party's detector, as short as one can be."""

    def anomaly_scores(self, x):
        return (x - x.roll(1, 3)).abs().mean((1, 2, 3))


def photographs(n: int, seed: int = 0) -> list[np.ndarray]:
    """Colour images of many sizes."""
    random = np.random.RandomState(seed)
    sizes = random.randint(8, 20, (n, 2))
    return [random.randint(0, 256, (h, w, 3), np.uint8) for h, w in sizes]


def test_a_subclass_that_only_scores_has_everything_else(tmp_path):
    clean, new = photographs(99), photographs(60, seed=1)
    detector = Roughness(fpr=0.1).fit(clean)
    flagged = detector.is_adversarial(new)
    assert np.array_equal(flagged, detector.predict(new) == -1)
    assert np.array_equal(flagged, detector.p_value(new) <= 0.1 + 1e-9)
    assert flagged.sum() <= binom(60, 0.1).ppf(0.9999)
    verdicts = detector.judge(new, maps=True)
    assert np.array_equal(verdicts.is_adversarial, flagged)
    assert np.isnan(verdicts.bits_per_dim).all()
    assert verdicts.surprisal_map is None
    alone = np.concatenate([detector.score_samples(image) for image in new])
    np.testing.assert_allclose(detector.score_samples(new), alone, rtol=1e-6)
    assert detector.accepts(new[0])
    assert detector.with_fpr(0.3).is_adversarial(new).sum() >= flagged.sum()
    assert detector.drift_monitor().alarms(0.01) == {"drift": False, "attacks": False}
    detector.save(tmp_path / "d.safetensors", made_by="a test")
    assert np.array_equal(Roughness.load(tmp_path / "d.safetensors").p_value(new), detector.p_value(new))
    with pytest.raises(ModelError):
        Detector.load(tmp_path / "d.safetensors")


def test_calibration_is_for_corruptions_too(tmp_path):
    clean = photographs(99)
    plain, wide = Roughness(fpr=0.1).fit(clean), Roughness(fpr=0.1).fit(clean, corruptions=["darker-10%"])
    darker = Roughness(fpr=0.1).fit(
        [corrupt(torch.from_numpy(x).movedim(2, 0)[None] / 255, "darker-10%") for x in clean]
    )
    new = photographs(30, seed=1)
    np.testing.assert_array_equal(wide.p_value(new), np.maximum(plain.p_value(new), darker.p_value(new)))
    assert wide.offset_ == min(plain.offset_, darker.offset_)
    # a promise with confidence holds for both kinds at once, so an image counts with the higher score
    sure = Roughness(fpr=0.1, confidence=0.9).fit(clean, corruptions=["darker-10%"])
    expected = np.maximum(plain.calibration_scores_, darker.calibration_scores_)
    np.testing.assert_array_equal(sure.calibration_scores_, expected)
    wide.save(tmp_path / "d.safetensors")
    again = Roughness.load(tmp_path / "d.safetensors", confidence=0.9)
    np.testing.assert_array_equal(again.calibration_scores_, expected)


def test_a_calibration_of_the_wrong_shape_is_refused(tmp_path):
    detector = Roughness(fpr=0.1).fit(photographs(20))
    detector.save(tmp_path / "d.safetensors")
    tensors, meta = load_tensors(tmp_path / "d.safetensors")
    name = next(name for name in tensors if name.startswith("calibration_scores"))
    scores = tensors[name].clone()
    save_tensors(tmp_path / "old.safetensors", {name: scores[0]}, meta)  # before 0.2
    loaded = Roughness.load(tmp_path / "old.safetensors")
    np.testing.assert_array_equal(loaded.calibration_scores_, detector.calibration_scores_)
    for damaged in (scores[:0], scores.repeat(2, 1), scores[None]):
        save_tensors(tmp_path / "damaged.safetensors", {name: damaged}, meta)
        with pytest.raises(ModelError, match="damaged or of another version"):
            Roughness.load(tmp_path / "damaged.safetensors")


def test_a_function_is_a_detector(tmp_path):
    def brightness(x):
        return x.mean((1, 2, 3))

    detector = FunctionDetector(brightness, fpr=0.05).fit(clean_images(99))
    assert detector.is_adversarial(np.full((1, 8, 8), 255, np.uint8)).all()
    detector.save(tmp_path / "d.safetensors")
    loaded = FunctionDetector.load(tmp_path / "d.safetensors", function=brightness)
    x = clean_images(5, seed=1)
    assert np.array_equal(loaded.p_value(x), detector.p_value(x))
    with pytest.raises(ParameterError):
        FunctionDetector.load(tmp_path / "d.safetensors").p_value(x)


def test_a_function_of_arrays_has_no_gradient_and_one_that_gives_nonsense_is_refused():
    def of_arrays(x):
        if not isinstance(x, np.ndarray):
            raise TypeError
        return x.mean((1, 2, 3))

    x = torch.rand(3, 1, 8, 8)
    assert FunctionDetector(of_arrays).anomaly_scores(x).shape == (3,)
    with pytest.raises(ParameterError):
        FunctionDetector(of_arrays).anomaly_scores(x.requires_grad_())
    with pytest.raises(ModelError):
        FunctionDetector(lambda x: x.mean()).anomaly_scores(x)
    with pytest.raises(ModelError):
        FunctionDetector(lambda x: x.mean((1, 2, 3)) / 0).anomaly_scores(x)


def test_copies_and_too_few_images_do_not_calibrate():
    with pytest.raises(CalibrationError):
        Roughness(fpr=0.1).fit(photographs(1) * 50)
    with pytest.raises(CalibrationError, match="99 calibration images"):
        Roughness(fpr=0.01).fit(photographs(50))
    with pytest.raises(ParameterError):
        Roughness(fpr=0.1).fit(photographs(50), corruptions=["sepia"])


def test_no_images_have_no_verdicts():
    detector = Roughness(fpr=0.1).fit(photographs(30))
    assert detector.p_value([]).shape == (0,)
    assert detector.p_value(np.zeros((0, 9, 9, 3), np.uint8)).shape == (0,)
