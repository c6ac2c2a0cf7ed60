"""Calibration from Python: the same guards as on the command line."""

import copy

import numpy as np
import pytest
import torch
from helpers import clean_images

from pixeldefend.classifier import ResNet
from pixeldefend.data import DATASETS, Source, load_dataset
from pixeldefend.detectors import Detector
from pixeldefend.errors import CalibrationError, ParameterError
from pixeldefend.serialization import load_tensors
from pixeldefend.training.calibrate import calibrate


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "ramps.npz"
    np.savez(path, x=clean_images(600))
    return str(path)


@pytest.fixture
def saved(tiny_density, data, tmp_path):
    """A density whose recipe says that it was trained on `data`."""
    path = tmp_path / "density.safetensors"
    tiny_density.save(path, recipe={"data": data, "train_sha256": load_dataset(data).train.digest(), "epochs": 3})
    return path


def test_it_writes_a_detector_with_its_recipe_and_metrics(saved, data, tmp_path):
    out = tmp_path / "detector.safetensors"
    made = calibrate(saved, data, out, statistic="bits_per_dim", fpr=0.05)
    detector, meta = Detector.load(out), load_tensors(out)[1]
    assert np.array_equal(detector.calibration_scores_, made.detector.calibration_scores_)
    assert len(detector.calibration_scores_) == meta["calibration_images"] == 50
    assert meta["metrics"] == made.metrics
    assert meta["recipe"]["epochs"] == 3
    images = load_dataset(data)
    assert made.metrics["test_bits_per_dim"] == pytest.approx(detector.bits_per_dim(images.test.x).mean(), abs=1e-4)
    assert 0 <= made.metrics["test_false_alarms"] <= 0.3
    noise = np.random.RandomState(0).randint(0, 256, (20, 8, 8), np.uint8)
    assert detector.is_adversarial(noise).all()


def test_models_and_data_may_be_objects(tiny_density, data):
    images = load_dataset(data)
    made = calibrate(tiny_density, images, statistic="excess_surprisal", fpr=0.05, corruptions=["jpeg-75"])
    assert made.detector.corruptions_ == ["jpeg-75"]
    assert made.notes["data"] == "ramps"
    classifier = ResNet((1, 8, 8), width=2).eval()
    asked = calibrate(tiny_density, images, statistic="purified_disagreement", classifier=classifier, fpr=0.05)
    assert asked.detector.classifier is classifier


def test_an_alternative_joins_the_file_and_has_not_seen_the_images_either(saved, tiny_density, data, tmp_path):
    other, out = copy.deepcopy(tiny_density), tmp_path / "detector.safetensors"
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    path = tmp_path / "alternative.safetensors"
    other.save(path, recipe=load_tensors(saved)[1]["recipe"] | {"perturb": True})
    made = calibrate(saved, data, out, statistic="likelihood_ratio", alternative=path, fpr=0.05)
    assert load_tensors(out)[1]["recipe_of_alternative"]["perturb"]
    x = load_dataset(data).test.x.float()[:3] / 255
    wanted = other.log_prob(x) - tiny_density.log_prob(x)
    np.testing.assert_allclose(-Detector.load(out).score_samples(x), wanted.detach().numpy(), rtol=1e-3, atol=1e-2)
    other.save(path, recipe={"data": "others", "train_sha256": "0"})
    with pytest.raises(CalibrationError, match=r"alternative\.safetensors"):
        calibrate(saved, data, statistic="likelihood_ratio", alternative=path, fpr=0.05)
    assert made.detector.alternative is not None
    with pytest.raises(ParameterError, match="bits_per_dim uses no alternative"):
        calibrate(saved, data, statistic="bits_per_dim", alternative=path, fpr=0.05)


def test_a_statistic_that_learns_has_images_of_its_own(tiny_density, data):
    images = load_dataset(data)
    few, all_ = (calibrate(tiny_density, images, statistic="typicality", fpr=0.05, fit_images=n) for n in (5, None))
    assert not np.array_equal(few.detector.calibration_scores_, all_.detector.calibration_scores_)


def test_images_that_the_density_was_trained_on_never_calibrate(saved, tiny_density, tmp_path):
    """The held-out images of another set with the same name, say with more images, may have been training images."""
    np.savez(tmp_path / "more.npz", x=clean_images(660))
    with pytest.raises(CalibrationError, match="more"):
        calibrate(saved, str(tmp_path / "more.npz"), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    more = load_dataset(str(tmp_path / "more.npz"))
    with pytest.raises(CalibrationError):
        calibrate(tiny_density, more, recipe=load_tensors(saved)[1]["recipe"])


def test_a_density_of_another_named_data_set_has_seen_nothing_of_it(tiny_density, data, monkeypatch):
    monkeypatch.setitem(DATASETS, "elsewhere", lambda folder: Source(clean_images(24)))
    made = calibrate(tiny_density, data, fpr=0.05, recipe={"data": "elsewhere", "train_sha256": "0"})
    assert made.metrics["test_images"] == 50
    with pytest.raises(CalibrationError):
        calibrate(tiny_density, "elsewhere", fpr=0.5, recipe={"data": "elsewhere", "train_sha256": "0"})


def test_too_few_images_for_the_rate_are_refused(tiny_density, data):
    with pytest.raises(CalibrationError):
        calibrate(tiny_density, data, fpr=0.001)


def test_bad_names_and_outputs_are_refused(tiny_density, data, tmp_path):
    with pytest.raises(ParameterError, match="nope"):
        calibrate(tiny_density, data, statistic="nope")
    with pytest.raises(ParameterError, match="tpu9"):
        calibrate(tiny_density, data, device="tpu9")
    with pytest.raises(IsADirectoryError):
        calibrate(tiny_density, data, tmp_path)
