"""What is PixelCNN++'s own: it models no event small enough to enumerate."""

import pytest
import torch
from helpers import SMALL, dependence, grid_images, randomised, site_order

from pixeldefend.densities import PixelCNNPlusPlus, build

CASES = SMALL["pixelcnnpp"]


def made(config):
    return randomised(build({"model": "pixelcnnpp", **config}))


@pytest.mark.parametrize("scales", [2, 3])
def test_a_deep_enough_pixelcnnpp_has_no_blind_spot(scales):
    density = randomised(
        PixelCNNPlusPlus((3, 8, 8), filters=4, blocks=3, scales=scales, mixtures=2), scale=0.15
    ).double()
    x = (0.1 + 0.8 * grid_images(1, 3, 8, 8)).double()
    order = site_order(density)
    for row in range(8):
        for column in range(8):
            site = (2, row, column)
            gradient = dependence(density, x, site)
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
        before = site_order(density) < site_order(density)[site]
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
