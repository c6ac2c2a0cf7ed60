"""Statistics that learn from clean images."""

import numpy as np
import pytest
import torch
from helpers import grid_images

from pixeldefend.scores import Evidence, bits_per_dim, with_noise
from pixeldefend.scores.learned import SurprisalGiven, Typicality


def test_typicality_is_the_distance_from_the_mean(density):
    x = grid_images(4, 1, 8, 8)
    bits = bits_per_dim(Evidence(density, x))
    score = Typicality().fit(bits)
    assert score.center_ == pytest.approx(bits.mean().item(), rel=1e-6)
    torch.testing.assert_close(score(Evidence(density, x)), (bits - score.center_).abs())


def test_a_regression_is_that_of_least_squares():
    random = np.random.RandomState(0)
    x = random.rand(50)
    y = 3 * x + 2 + 0.1 * random.randn(50)
    score = SurprisalGiven(None).fit(torch.from_numpy(np.stack([y, x], 1)))
    slope, intercept = np.polyfit(x, y, 1)
    assert (score.slope_, score.intercept_) == (pytest.approx(slope), pytest.approx(intercept))
    left = score.evaluate(torch.tensor([[5.0, 1.0]]))
    assert left.item() == pytest.approx(5 - slope - intercept, rel=1e-5)


def test_noise_is_small_on_the_grid_the_same_every_time_and_none_in_rows():
    x = grid_images(20, 3, 8, 8)
    noisy = with_noise(x)
    steps = (255 * (noisy - x)).double()
    assert (steps - steps.round()).abs().max() < 1e-4
    assert sorted(steps.round().unique().tolist()) == [-1, 0, 1]
    assert (steps.round() != 0).double().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert torch.equal(noisy, with_noise(x))
    assert torch.equal(with_noise(x[:, 0, 0]), x[:, 0, 0])
