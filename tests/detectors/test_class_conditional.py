import numpy as np
import pytest
import torch
from helpers import clean_images, noise
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from pixeldefend.detectors import ClassConditional, Detector
from pixeldefend.images.corruptions import corrupt


def two_classes(n, seed):
    """Clean images, and as many of a noisier sort; labels 3 and 7."""
    smooth, noisy = clean_images(n, seed), clean_images(n, seed + 50) // 2 + noise(n, seed + 99) // 8
    order = np.random.RandomState(seed).permutation(2 * n)
    return np.concatenate([smooth, noisy.astype(np.uint8)])[order], np.repeat([3, 7], n)[order]


def test_every_class_has_its_own_threshold(tiny_density, tmp_path):
    x, y = two_classes(200, seed=1)
    new, new_y = two_classes(200, seed=2)
    detector = ClassConditional(Detector(tiny_density, fpr=0.1)).fit(x, y)
    flagged = detector.is_adversarial(new, new_y)
    pooled = Detector(tiny_density, fpr=0.1).fit(x).is_adversarial(new)
    for label in (3, 7):
        assert 0.03 < flagged[new_y == label].mean() < 0.18
    assert pooled[new_y == 7].mean() > 0.18
    assert np.array_equal(flagged, detector.p_value(new, new_y) <= 0.1 + 1e-9)
    detector.save(tmp_path / "d.safetensors")
    loaded = ClassConditional.load(tmp_path / "d.safetensors")
    assert np.array_equal(loaded.is_adversarial(new, new_y), flagged)
    Detector(tiny_density, fpr=0.1).fit(x).save(tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="was not calibrated by class"):
        ClassConditional.load(tmp_path / "plain.safetensors")


class Contrast(torch.nn.Module):
    """Reads rough images as of class 1."""

    def forward(self, x):
        rough = (x - x.roll(1, 3)).abs().mean((1, 2, 3))
        return torch.stack([torch.full_like(rough, 0.02), rough], 1)


def test_classes_by_a_classifier(tiny_density):
    x, _ = two_classes(200, seed=1)
    new, _ = two_classes(200, seed=2)
    detector = ClassConditional(Detector(tiny_density, fpr=0.1), Contrast()).fit(x)
    assert detector.classes_.tolist() == [0, 1]
    assert detector.is_adversarial(new).mean() < 0.16
    assert detector.is_adversarial(new[0]).shape == (1,)
    with pytest.raises(ValueError, match="leave y out"):
        detector.p_value(new, np.zeros(len(new), int))
    with pytest.raises(ValueError, match="may change the predicted class"):
        detector.fit(x, corruptions=["jpeg-75"])


def test_classes_are_calibrated_for_corruptions(tiny_density):
    x, y = two_classes(60, seed=1)
    new, labels = two_classes(30, seed=2)
    base = Detector(tiny_density, fpr=0.1)
    found = ClassConditional(base).fit(x, y, corruptions=["darker-10%"])
    for label in (3, 7):
        p = found.p_value(new[labels == label], labels[labels == label])
        of_class = torch.from_numpy(x[y == label])[:, None] / 255
        alone = [base.fit(kind).p_value(new[labels == label]) for kind in (of_class, corrupt(of_class, "darker-10%"))]
        np.testing.assert_allclose(p, np.maximum(*alone))
    assert np.array_equal(found.is_adversarial(new, labels), found.p_value(new, labels) <= 0.1 + 1e-9)


def test_classes_are_refused_that_cannot_be_calibrated(tiny_density):
    x, y = two_classes(30, seed=1)
    detector = Detector(tiny_density, fpr=0.05)
    with pytest.raises(NotFittedError):
        ClassConditional(detector).p_value(x, y)
    with pytest.raises(ValueError, match="give the labels y"):
        ClassConditional(detector).fit(x)
    with pytest.raises(ValueError, match="all images are of class 3"):
        ClassConditional(detector).fit(x[y == 3], y[y == 3])
    with pytest.raises(ValueError, match="labels must be 60 whole numbers, got int64"):
        ClassConditional(detector).fit(x, y[:10])
    with pytest.raises(ValueError, match="labels must be 60 whole numbers, got float64"):
        ClassConditional(detector).fit(x, y / 2)
    few = np.r_[np.flatnonzero(y == 3), np.flatnonzero(y == 7)[:5]]
    with pytest.raises(ValueError, match=r"class 7: fpr 0\.05 needs at least 19 calibration images, got 5"):
        ClassConditional(detector).fit(x[few], y[few])
    fitted = ClassConditional(detector).fit(x, y)
    with pytest.raises(ValueError, match="label 4 has no calibration image"):
        fitted.is_adversarial(x[:1], [4])
    with pytest.raises(ValueError, match="label 4 has no calibration image"):
        fitted.p_value(x[:1], [4])
    with pytest.raises(ValueError, match="class 7"):
        fitted.fit(x[few], y[few])
    assert np.array_equal(fitted.classes_, [3, 7])  # a fit that fails leaves it as it was


def test_classes_that_come_sorted_are_all_calibrated(tiny_density):
    x, y = two_classes(60, seed=1)
    order = np.argsort(y, kind="stable")
    detector = ClassConditional(Detector(tiny_density, statistic="typicality", fpr=0.1)).fit(x[order], y[order])
    assert detector.classes_.tolist() == [3, 7]
    assert np.array_equal(detector.calibration_labels_, y[order][detector.detector_.calibration_index_])


def test_a_class_s_detector_takes_what_a_detector_takes(tiny_density):
    """Grey images in colour, and flattened ones."""
    x, y = two_classes(80, seed=1)
    labelled = ClassConditional(Detector(tiny_density, fpr=0.1)).fit(x, y)
    by_classifier = ClassConditional(Detector(tiny_density, fpr=0.1), Contrast()).fit(x)
    colour = np.repeat(x[..., None], 3, axis=3)
    np.testing.assert_allclose(labelled.p_value(colour, y), labelled.p_value(x, y))
    np.testing.assert_allclose(by_classifier.p_value(colour), by_classifier.p_value(x))
    np.testing.assert_allclose(by_classifier.p_value(x.reshape(len(x), -1)), by_classifier.p_value(x))


def test_it_fits_a_clone_and_keeps_scikit_learn_s_signs(tiny_density):
    x, y = two_classes(60, seed=1)
    given = Detector(tiny_density, fpr=0.1)
    detector = ClassConditional(given).fit(x, y)
    assert not hasattr(given, "offset_")
    flagged = detector.is_adversarial(x, y)
    assert np.array_equal(detector.predict(x, y) == -1, flagged)
    assert np.array_equal(detector.decision_function(x, y) < 0, flagged)
    np.testing.assert_allclose(detector.score_samples(x), detector.detector_.score_samples(x))
    assert clone(detector).get_params(deep=False).keys() == detector.get_params(deep=False).keys()
