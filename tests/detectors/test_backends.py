"""Other backends say the same, or carry a calibration of their own."""

import copy

import numpy as np
import pytest
import torch
from helpers import SAMPLE, clean_images

from pixeldefend import Detector, load_detector
from pixeldefend.densities import OrderEnsemble, build
from pixeldefend.detectors.backends import PRECISION, on_backend
from pixeldefend.errors import CalibrationError

openvino = pytest.importorskip("openvino", reason="the extra 'fast' is not installed")
SMALL = {"model": "pixelcnnpp", "event_shape": [1, 8, 8], "filters": 8, "blocks": 1, "mixtures": 3}


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    images = clean_images(300)
    return Detector(build(SMALL), fpr=0.1).fit(images[:200], backends=["bfloat16"]), images[200:]


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("pixelcnn", dict(filters=12, blocks=2, head="logistics", mixtures=2)),
        ("gated_pixelcnn", dict(filters=24, blocks=6, head="logistics", mixtures=2)),
        ("pixelcnnpp", dict(filters=8, blocks=1, mixtures=3)),
        ("pixelcnnpp", dict(filters=8, blocks=2, scales=1, streams=1, mixtures=3)),
        ("made", dict(hidden=(200,), head="logistics", mixtures=2)),
        ("diagonal_bilstm", dict(filters=12, head="logistics", mixtures=2)),
    ],
)
@pytest.mark.parametrize("backend", ["bfloat16", "openvino"])
def test_a_backend_says_what_the_reference_says(model, settings, backend):
    density = build({"model": model, "event_shape": [1, 8, 8], **settings}).eval()
    if (model, backend) == ("made", "openvino"):
        with pytest.raises(ValueError, match="OpenVINO cannot run MADE: use another backend"):
            on_backend(density, backend)
        return
    x = torch.from_numpy(clean_images(5))[:, None] / 255
    fast = on_backend(density, backend)
    with torch.inference_mode():
        expected = density.log_prob_map(x)
        error = (fast.log_prob_map(x) - expected).abs().max()
        for part in (x[:1], x[:3]):  # any size of batch
            torch.testing.assert_close(fast.log_prob_map(part), fast.log_prob_map(x)[: len(part)], atol=1e-3, rtol=1e-3)
    assert error < (1e-3 if backend == "openvino" else 0.5)
    assert on_backend(density, "float32") is density


def test_openvino_shares_the_calibration_and_moves_no_p_value_by_more_than_a_step():
    reference, other = load_detector("fashion-mnist"), load_detector("fashion-mnist", backend="openvino")
    np.testing.assert_array_equal(other.calibration_scores_, reference.calibration_scores_)
    images = np.load(SAMPLE)["x"][:64]
    moved = np.abs(other.p_value(images) - reference.p_value(images))
    assert moved.max() <= 1.001 / (len(reference.calibration_scores_) + 1)


def test_bfloat16_has_a_calibration_of_its_own(detector, tmp_path):
    reference, fresh = detector
    other = reference.with_backend("bfloat16")
    assert not np.array_equal(other.calibration_scores_, reference.calibration_scores_)
    assert len(other.calibration_scores_) == len(reference.calibration_scores_)
    # its scores are those of its own precision
    alone = Detector(reference.density, fpr=0.1, backend="bfloat16").fit(fresh)
    assert set(alone.calibrations_) == {"bfloat16"}
    np.testing.assert_allclose(-alone.score_samples(fresh), -other.score_samples(fresh))
    np.testing.assert_allclose(other.score_samples(fresh), reference.score_samples(fresh), atol=0.5)

    reference.save(tmp_path / "both.safetensors")
    for backend in PRECISION:
        loaded = Detector.load(tmp_path / "both.safetensors", backend=backend)
        np.testing.assert_allclose(loaded.p_value(fresh), reference.with_backend(backend).p_value(fresh))
    assert Detector.load(tmp_path / "both.safetensors").backend == "float32"
    alone.save(tmp_path / "alone.safetensors")
    assert Detector.load(tmp_path / "alone.safetensors").backend == "bfloat16"
    with pytest.raises(CalibrationError, match="float32"):
        Detector.load(tmp_path / "alone.safetensors", backend="float32")


def test_fused_and_repeated_scores_run_on_a_backend():
    images = clean_images(300)
    for score in ("fused", "likeliest_gain", "gradient_norm"):
        made = Detector(build(SMALL), statistic=score, fpr=0.1).fit(images[:260])
        np.testing.assert_allclose(
            made.with_backend("openvino").score_samples(images[260:]), made.score_samples(images[260:]), atol=1e-2
        )


def test_a_detector_with_a_backend_can_be_copied(detector):
    made = detector[0].with_backend("openvino")
    expected = made.p_value(detector[1])
    np.testing.assert_array_equal(copy.deepcopy(made).p_value(detector[1]), expected)


def test_what_a_backend_cannot_run_is_refused(detector):
    with pytest.raises(ValueError, match="backend must be one of float32, bfloat16, openvino, got 'fast'"):
        detector[0].with_backend("fast")
    with pytest.raises(ValueError, match="OrderEnsemble has none"):
        on_backend(OrderEnsemble(build({"model": "made", "event_shape": [4], "head": "bernoulli"}), 1), "bfloat16")
    with pytest.raises(ValueError, match="images on the CPU"):
        on_backend(build({"model": "made", "event_shape": [4], "head": "bernoulli"}), "openvino")
    with pytest.raises(ValueError, match="must be a list"):
        Detector(build(SMALL)).fit(detector[1], backends="bfloat16")
    without = Detector(build(SMALL), fpr=0.1).fit(detector[1])
    with pytest.raises(CalibrationError, match="bfloat16"):
        without.with_backend("bfloat16")
