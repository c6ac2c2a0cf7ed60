"""Tests the profiles of images."""

import math

import pytest
import torch

from pixeldefend.densities import NeLLoC, kernels
from pixeldefend.scores import profile
from pixeldefend.scores.profile import examine, residuals, size_of_profile


@pytest.fixture(scope="module")
def density():
    torch.manual_seed(0)
    return NeLLoC((3, None, None), width=4, layers=1, mixtures=2).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (3, 3, 72, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_each_image_has_the_profile_that_it_has_alone(density, images):
    together = examine(density, images)
    assert together.profiles.shape == (3, size_of_profile(3))
    alone = torch.cat([examine(density, images[i : i + 1]).profiles for i in range(3)])
    torch.testing.assert_close(together.profiles, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.profiles, examine(density, images.float() / 255).profiles)


def test_bits_and_excess_are_those_of_the_density(density, images):
    examined = examine(density, images, maps=True)
    x = images.float() / 255
    torch.testing.assert_close(examined.bits_per_dim, density.bits_per_dim(x), atol=1e-4, rtol=1e-4)
    _, deviation, relative = residuals(density.conditionals(x), x)
    torch.testing.assert_close(relative - torch.log(deviation), density.log_prob_map(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(examined.excess_map, -(relative + profile.EXPECTED).sum(1), atol=1e-3, rtol=1e-4)


def test_the_excess_of_a_logistic_is_zero_on_average():
    u = torch.linspace(0, 1, 100_001)[1:-1]
    z = torch.logit(u)
    log_density = -z - 2 * torch.nn.functional.softplus(-z)
    relative = log_density + math.log(math.pi / math.sqrt(3))
    assert relative.mean().item() == pytest.approx(-profile.EXPECTED, abs=2e-4)


def test_of_a_large_image_evenly_spread_tiles_are_profiled(density, images, monkeypatch):
    monkeypatch.setattr(profile, "TILES_AT_MOST", 3)
    for side, most in ((32, 256), (64, 256), (47, 256), (10, 99)):
        tiles = [(row, column) for row in range(side) for column in range(side)]
        chosen = profile._spread(tiles, most)
        assert len(set(chosen)) == most
        for place in zip(*chosen, strict=True):
            assert len(set(place)) > 0.9 * side
    image = images[:1].repeat(1, 1, 4, 2)
    some, all_ = examine(density, image), examine(density, image, maps=True)
    torch.testing.assert_close(some.profiles, all_.profiles)
    assert all_.excess_map.shape == (1, 288, 192)


def test_no_images_have_no_profiles(density):
    examined = examine(density, torch.zeros(0, 3, 64, 64), maps=True)
    assert examined.profiles.shape == (0, size_of_profile(3))
    assert examined.excess_map.shape == (0, 64, 64)


def test_profiles_are_differentiable(density):
    x = torch.rand(1, 3, 64, 64, dtype=torch.float32, requires_grad=True)
    gradient = torch.autograd.grad(examine(density, x).profiles.square().mean(), x)[0]
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).double().mean() > 0.9


def of_both(monkeypatch, *planes):
    """Returns the sums by the compiled kernel, and those by torch."""
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    compiled = profile._sums(*planes)
    monkeypatch.setattr(kernels, "has_numba", lambda: False)
    return compiled, profile._sums(*planes)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 3, 17, 40)])
def test_the_compiled_sums_are_torchs(shape, monkeypatch):
    torch.manual_seed(0)
    deviation = torch.exp(3 * torch.randn(shape))  # also beyond all scales
    planes = 2 * torch.randn(shape) * deviation, deviation, 4 * torch.randn(shape) - 2
    for ours, theirs in zip(*of_both(monkeypatch, *planes), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_nan_stays_nan_in_compiled_sums(broken, monkeypatch):
    planes = [torch.ones(2, 1, 8, 8) for _ in range(3)]
    planes[broken][0, 0, 3, 3] = math.nan
    found = torch.cat([sums.reshape(2, -1).double() for sums in profile._sums(*planes)], 1).sum(1)
    assert found.isnan().tolist() == [True, False]
