"""Tests the detector of photographs."""

import numpy as np
import pytest
import torch

from pixeldefend.calibration import conformal
from pixeldefend.densities import NeLLoC
from pixeldefend.detectors import PhotoDetector, load
from pixeldefend.detectors.photo import IMAGES_OF_A_HISTORY, UNKNOWN
from pixeldefend.errors import CalibrationError, ImageError, ModelError, ParameterError
from pixeldefend.images import Origin
from pixeldefend.scores.likelihood_ratio import LikelihoodRatio
from pixeldefend.scores.profile import examine, size_of_profile

HISTORIES = ("smooth", "rough")
LOSSLESS, JPEG = Origin("PNG", 100, False), Origin("JPEG", 100, True, quality=80)


@pytest.fixture(scope="module")
def density():
    torch.manual_seed(0)
    return NeLLoC((3, None, None), width=4, layers=1, mixtures=2).eval()


@pytest.fixture(scope="module")
def ratio(density):
    """A ratio that calls images with large residuals rough, and whose score is the mean absolute residual."""
    ratio = LikelihoodRatio(size_of_profile(3), HISTORIES, width=2)
    profiles = examine(density, torch.from_numpy(photographs(60, seed=1))).profiles
    ratio.mean.copy_(profiles.mean(0))
    ratio.deviation.copy_(profiles.std(0) + 1e-3)
    return ratio.eval()


def photographs(n, *, seed, side=64):
    """Returns uint8 (n, 3, side, side): waves with little noise, every second one with more."""
    rng = np.random.default_rng(seed)
    place = np.arange(side)
    waves = [
        128 + 60 * np.sin(place[:, None] / rng.uniform(5, 20)) * np.cos(place / rng.uniform(5, 20)) for _ in range(n)
    ]
    noise = rng.normal(size=(n, 3, side, side)) * np.where(np.arange(n) % 2, 6, 1.5)[:, None, None, None]
    return np.clip(np.stack(waves)[:, None] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted(density, ratio):
    return PhotoDetector(density, ratio, fpr=0.05).fit(list(photographs(500, seed=2).transpose(0, 2, 3, 1)))


def test_p_values_are_valid_within_each_history(fitted):
    verdicts = fitted.judge(list(photographs(600, seed=3).transpose(0, 2, 3, 1)))
    histories = np.array(verdicts.history)
    for history in set(histories) - {UNKNOWN}:
        p = verdicts.p_value[histories == history]
        for rate in (0.05, 0.2, 0.5):
            assert abs((p <= rate).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / len(p)) + 0.03
    np.testing.assert_array_equal(verdicts.is_adversarial, verdicts.p_value <= fitted.fpr)
