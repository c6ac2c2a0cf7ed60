"""One contract for every entry of DENSITIES."""

import math

import pytest
import torch
from helpers import grid_images, randomised

from pixeldefend import densities
from pixeldefend.densities import DENSITIES, Autoregressive, PixelCNNPlusPlus, build

# name -> small configurations that between them reach every branch
SMALL = {
    "pixelcnnpp": [
        dict(event_shape=(1, 8, 8), filters=4, blocks=1, scales=1, mixtures=2),
        dict(event_shape=(1, 9, 11), filters=4, blocks=1, scales=3, mixtures=2),
        dict(event_shape=(3, 8, 9), filters=4, blocks=1, scales=2, mixtures=2),
        dict(event_shape=(3, 8, 8), filters=4, blocks=1, scales=2, head="categorical"),
        dict(event_shape=(1, 13, 8), filters=4, blocks=2, scales=3, mixtures=1, dropout=0.2),
    ],
}
CASES = [
    pytest.param({"model": name, **case}, id=f"{name}-{i}") for name in DENSITIES for i, case in enumerate(SMALL[name])
]


def made(config: dict) -> Autoregressive:
    density = build(config)
    assert isinstance(density, Autoregressive)
    return randomised(density)


def site_order(shape: tuple[int, int, int]) -> torch.Tensor:
    """(C, H, W): the position of each sub-pixel in the order; pixels in raster order, channels within."""
    c, h, w = shape
    return torch.arange(h * w * c).view(h, w, c).permute(2, 0, 1)


def log_prob_dependence(density: Autoregressive, x: torch.Tensor, site: tuple[int, int, int]) -> torch.Tensor:
    """(C, H, W): |d p(. | before) of one site / d x|, over the whole conditional and not just the value at x."""
    x = x.clone().requires_grad_()
    pmf = density.conditionals(x).pmf()[(0, *site)]
    weights = torch.randn(pmf.shape, generator=torch.Generator().manual_seed(1), dtype=pmf.dtype)
    (gradient,) = torch.autograd.grad((pmf * weights).sum(), x)
    return gradient[0].abs()


@pytest.mark.parametrize("config", CASES)
def test_a_conditional_depends_on_exactly_the_sites_before_it(config):
    density = made(config).double()
    shape = density.event_shape
    x = (0.1 + 0.8 * grid_images(1, *shape)).double()
    order = site_order(shape)
    for site in [(0, 0, 0), (0, 0, 3), (shape[0] - 1, 2, 0), (0, 4, 5), (shape[0] - 1, shape[1] - 1, shape[2] - 1)]:
        gradient = log_prob_dependence(density, x, site)
        assert (gradient[order >= order[site]] == 0).all(), "depends on itself or on what comes later"


@pytest.mark.parametrize("scales", [2, 3])
def test_a_deep_enough_pixelcnnpp_has_no_blind_spot(scales):
    density = randomised(
        PixelCNNPlusPlus((3, 8, 8), filters=4, blocks=3, scales=scales, mixtures=2), scale=0.15
    ).double()
    x = (0.1 + 0.8 * grid_images(1, 3, 8, 8)).double()
    order = site_order((3, 8, 8))
    for row in range(8):
        for column in range(8):
            site = (2, row, column)
            gradient = log_prob_dependence(density, x, site)
            assert (gradient[order < order[site]] != 0).all(), f"{site} misses something before it"


@pytest.mark.parametrize("config", CASES)
def test_summing_out_the_last_site_leaves_the_probability_of_the_rest(config):
    """Together with causality that is normalisation: it holds for every site."""
    density = made(config).double()
    x = grid_images(1, *density.event_shape).double()
    c, h, w = density.event_shape
    for site in [(c - 1, h - 1, w - 1), (0, 3, 2)]:
        every = x.repeat(256, 1, 1, 1)
        every[(slice(None), *site)] = torch.arange(256, dtype=torch.float64) / 255
        before = site_order(density.event_shape) < site_order(density.event_shape)[site]
        up_to = before.clone()
        up_to[site] = True
        with torch.no_grad():
            terms = density.log_prob_map(every)
        total = torch.logsumexp((terms * up_to).flatten(1).sum(1), 0)
        assert total.item() == pytest.approx((terms[0] * before).sum().item(), abs=1e-5)


@pytest.mark.slow
def test_summing_out_the_last_two_pixels_leaves_the_probability_of_the_rest():
    density = randomised(PixelCNNPlusPlus((1, 8, 8), filters=2, blocks=1, scales=1, mixtures=2))
    x = grid_images(1, 1, 8, 8).repeat(256, 1, 1, 1)
    x[:, 0, 7, 7] = torch.arange(256) / 255
    totals = []
    with torch.no_grad():
        for value in range(256):
            x[:, 0, 7, 6] = value / 255
            terms = density.log_prob_map(x).flatten(1).double()
            totals.append(terms[:, -2:].sum(1))
    assert torch.cat(totals).exp().sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("config", CASES)
def test_log_prob_is_the_sum_of_its_map_and_bits_per_dim_follows(config):
    density = made(config)
    x = grid_images(3, *density.event_shape)
    log_prob, by_site = density.log_prob(x), density.log_prob_map(x)
    assert by_site.shape == x.shape
    assert (by_site <= 1e-6).all()
    torch.testing.assert_close(log_prob, by_site.flatten(1).sum(1))
    torch.testing.assert_close(density.bits_per_dim(x), -log_prob / (x[0].numel() * math.log(2)))


@pytest.mark.parametrize("config", CASES)
def test_an_image_is_scored_alone_as_in_a_batch(config):
    density = made(config).double()
    x = grid_images(5, *density.event_shape).double()
    torch.testing.assert_close(density.log_prob(x)[:1], density.log_prob(x[:1]))
    assert density.log_prob(x[:0]).shape == (0,)


@pytest.mark.parametrize("config", CASES)
def test_every_parameter_gets_a_gradient(config):
    density = made(config).train()
    density.log_prob(grid_images(4, *density.event_shape)).sum().backward()
    for name, parameter in density.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", CASES)
def test_save_and_load(config, tmp_path):
    density = made(config)
    x = grid_images(2, *density.event_shape)
    density.save(tmp_path / "d.safetensors", recipe={"epochs": 1})
    loaded = densities.load(tmp_path / "d.safetensors")
    assert loaded.config == density.config
    torch.testing.assert_close(loaded.log_prob(x), density.log_prob(x))


@pytest.mark.parametrize("config", CASES)
def test_samples_are_images_on_the_grid_and_repeat_with_their_generator(config):
    density = randomised(build(config), scale=0.05)
    first = density.sample(2, generator=torch.Generator().manual_seed(3))
    again = density.sample(2, generator=torch.Generator().manual_seed(3))
    assert first.shape == (2, *density.event_shape)
    assert torch.equal(first, again)
    assert torch.equal((first * 255).round() / 255, first)
    assert not torch.equal(first[0], first[1])


def test_sample_frequencies_match_the_probabilities(tiny_density):
    n = 1500
    x = tiny_density.sample(n, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        surprisal = -tiny_density.log_prob_map(x)
        expected, variance = tiny_density.conditionals(x).surprisal_moments()
        first = tiny_density.conditionals(x[:1]).pmf()[0, 0, 0, 0]
    # the first pixel follows its pmf
    frequencies = torch.bincount((x[:, 0, 0, 0] * 255).round().long(), minlength=256) / n
    assert ((frequencies - first).abs() <= 5 * (first * (1 - first) / n).sqrt() + 1e-3).all()
    # and every other one is as surprising as its conditional says, on average
    excess = (surprisal - expected).mean(0) / (variance.mean(0) / n).sqrt()
    assert excess.abs().max() < 5


def test_gradient_to_the_input_matches_finite_differences():
    density = PixelCNNPlusPlus((1, 8, 8), filters=2, blocks=1, scales=2, mixtures=2)
    density = randomised(density, scale=0.1).double()
    x = (0.1 + 0.8 * grid_images(1, 1, 8, 8)).double().requires_grad_()
    assert torch.autograd.gradcheck(density.log_prob, (x,), eps=1e-7, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    density = made(SMALL_RGB).to(dtype)
    x = grid_images(2, 3, 8, 9).to(dtype)
    assert density.log_prob(x).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        half = density.bits_per_dim(x)
    torch.testing.assert_close(half.double(), density.bits_per_dim(x).double(), rtol=0.05, atol=0.05)


SMALL_RGB = {"model": "pixelcnnpp", **SMALL["pixelcnnpp"][2]}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(2, 1, 8, 9), r"shape \(1, 8, 8\)"),
        (torch.rand(1, 8, 8), r"shape"),
        (torch.full((1, 1, 8, 8), 1.5), r"\[0, 1\], got min 1.5"),
        (torch.full((1, 1, 8, 8), -0.1), r"\[0, 1\]"),
        (torch.full((1, 1, 8, 8), math.nan), r"finite, got 64 NaN"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), r"floating point, got torch.uint8"),
    ],
)
def test_bad_images_are_refused(tiny_density, x, message):
    with pytest.raises(ValueError, match=message):
        tiny_density.log_prob(x)


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="unknown density 'nope'; there are: pixelcnnpp"):
        build({"model": "nope"})
    with pytest.raises(ValueError, match="event_shape"):
        PixelCNNPlusPlus((1, 7, 28))
    with pytest.raises(ValueError, match="event_shape"):
        PixelCNNPlusPlus((2, 8, 8))
    with pytest.raises(ValueError, match="scales must be 1, 2 or 3, got 4"):
        PixelCNNPlusPlus((1, 8, 8), scales=4)
    with pytest.raises(ValueError, match="head must be one of"):
        PixelCNNPlusPlus((1, 8, 8), head="gaussian")


def test_a_file_of_another_kind_is_refused(tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "detector.safetensors")
    with pytest.raises(ValueError, match="holds a detector, not a density"):
        densities.load(tmp_path / "detector.safetensors")
