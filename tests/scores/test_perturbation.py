"""Statistics of changed images."""

import copy

import pytest
import torch
from helpers import grid_images

from pixeldefend.densities import build
from pixeldefend.errors import ParameterError
from pixeldefend.scores import Evidence
from pixeldefend.scores.perturbation import gradient_norm, likeliest_gain, smoothing_gain


def test_gradient_norm_is_that_of_finite_differences(density):
    x = 0.25 + 0.5 * grid_images(1, 1, 8, 8)
    with torch.inference_mode():
        norm = gradient_norm(Evidence(density, x)).item()
    double = copy.deepcopy(density).double()
    steps = 1e-5 * torch.eye(64).double().reshape(64, 1, 8, 8)
    with torch.no_grad():
        difference = (double.log_prob(x.double() + steps) - double.log_prob(x.double() - steps)) / 2e-5
    assert norm == pytest.approx(difference.norm().item(), rel=1e-2)


def test_moving_to_likelier_values_gains(density, samples):
    with torch.inference_mode():
        evidence = Evidence(density, samples[:20])
        assert (likeliest_gain(evidence) > 0).double().mean() > 0.9


def test_smoothing_takes_a_speck_away(density):
    x = torch.full((1, 1, 8, 8), 0.4).mul(255).round() / 255
    speck = x.clone()
    speck[0, 0, 4, 4] = 1
    with torch.inference_mode():
        flat, specked = (smoothing_gain(Evidence(density, images)).item() for images in (x, speck))
        expected = (density.bits_per_dim(speck) - density.bits_per_dim(x)).item()
    assert flat == pytest.approx(0, abs=1e-5)
    assert specked == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ParameterError):
        smoothing_gain(Evidence(build({"model": "rnade", "event_shape": [1, 3, 3]}), torch.zeros(1, 1, 3, 3)))
