"""Benign corruptions: what they keep, what they change, and what they refuse."""

import numpy as np
import pytest
import torch
from helpers import clean_images, grid_images
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, uniform

from pixeldefend.errors import ImageError, ParameterError
from pixeldefend.images import quantize
from pixeldefend.images.corruptions import CORRUPTIONS, blur, corrupt, tone


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(name, channels):
    x = grid_images(3, channels, 11, 8)
    y = corrupt(x, name)
    assert y.shape == x.shape
    assert torch.equal(quantize(y), y)
    assert y.min() >= 0
    assert y.max() <= 1
    assert not torch.equal(x, y)
    assert torch.equal(y, corrupt(x, name))
    assert corrupt(x[:0], name).shape == (0, channels, 11, 8)


@pytest.mark.parametrize(
    "name",
    sorted(set(CORRUPTIONS) - {"noise-1", "noise-4", "darker-10%", "brighter-10%", "brightness-20%", "gamma-20%"}),
)
def test_a_flat_image_is_left_alone(name):
    x = torch.full((1, 3, 16, 16), 120 / 255)
    assert (corrupt(x, name) - x).abs().max() <= 1 / 255 + 1e-6


def test_better_quality_is_nearer():
    x = torch.from_numpy(clean_images(20))[:, None] / 255
    error = {name: (corrupt(x, name) - x).square().mean() for name in ("jpeg-95", "jpeg-75", "jpeg-50")}
    assert error["jpeg-95"] < error["jpeg-75"] < error["jpeg-50"]


@given(sigma=st.floats(0.3, 3), size=st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_a_blur_keeps_the_range_and_commutes_with_mirrors(sigma, size):
    x = grid_images(2, 1, size, size + 1)
    y = blur(x, torch.Generator(), sigma=sigma)
    assert y.min() >= x.min() - 1e-5
    assert y.max() <= x.max() + 1e-5
    torch.testing.assert_close(blur(x.flip(3), torch.Generator(), sigma=sigma), y.flip(3))


def test_noise_has_its_deviation_and_its_seed():
    x = torch.full((1, 1, 100, 100), 0.5)
    difference = 255 * (corrupt(x, "noise-4") - 127 / 255)
    assert difference.std().item() == pytest.approx(np.sqrt(16 + 1 / 12), rel=0.05)
    assert not torch.equal(corrupt(x, "noise-4", seed=1), corrupt(x, "noise-4"))


def test_what_is_no_corruption_and_what_are_no_images():
    with pytest.raises(ParameterError, match="sepia"):
        corrupt(torch.zeros(1, 1, 8, 8), "sepia")
    with pytest.raises(ImageError, match=r"\(2, 8\)"):
        corrupt(torch.zeros(2, 8), "jpeg-75")


@given(seed=st.integers(0, 1000), limit=st.floats(1, 2))
@settings(max_examples=30, deadline=None)
def test_a_tone_stays_within_its_limits(seed, limit):
    x = grid_images(3, 3, 8, 8)
    generator = torch.Generator().manual_seed(seed)
    mean = x.mean((1, 2, 3), keepdim=True)

    def factors(numerator, denominator):
        """Returns (N,): the one factor of each image."""
        ratio = torch.where(denominator.abs() > 0.02, numerator / denominator, torch.nan).flatten(1)
        found = ratio.nanmedian(1).values
        assert (ratio.isnan() | torch.isclose(ratio, found[:, None], rtol=1e-3)).all()
        return found

    inside = x.clamp(0.02, 0.95)
    for found in (
        factors(tone(x, generator, brightness=limit), x),
        factors(tone(x, generator, contrast=limit) - mean, x - mean),
        factors(torch.log(tone(inside, generator, gamma=limit)), torch.log(inside)),
    ):
        assert (found >= 1 / limit - 1e-3).all()
        assert (found <= limit + 1e-3).all()
        assert limit < 1.01 or len(found.unique()) == 3
    torch.testing.assert_close(tone(x, generator), x)


def test_the_factors_of_a_tone_are_log_uniform():
    x = torch.full((2000, 1, 1, 1), 0.5)
    y = tone(x, torch.Generator().manual_seed(0), brightness=1.2)
    share = torch.log(y / x).flatten().numpy() / np.log(1.2)
    assert kstest(share, uniform(-1, 2).cdf).pvalue > 0.01
