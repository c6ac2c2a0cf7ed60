"""What is PixelCNN++'s own: it models no event small enough to enumerate."""

import pytest
import torch
from helpers import SMALL, dependence, grid_images, randomised, site_order
from torch.nn import functional as F

from pixeldefend.densities import PixelCNNPlusPlus, build
from pixeldefend.densities.pixelcnnpp_blocks import concat_elu, elu

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
    for row in range(1, 8, 3):
        for column in range(0, 8, 3):
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
    n = 800
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


def test_the_activations_are_torch_s():
    x = torch.cat([torch.randn(1000) * 10 ** torch.randn(1000), torch.tensor([0.0, -0.0, 1e30, -1e30])])
    x = x[None, :, None, None].requires_grad_()
    for ours, torch_s in ((elu, F.elu), (concat_elu, lambda x: F.elu(torch.cat([x, -x], 1)))):
        torch.testing.assert_close(ours(x), torch_s(x), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(ours(x.detach()), torch_s(x.detach()), rtol=1e-6, atol=1e-7)
        gradients = [torch.autograd.grad(function(x).sum(), x)[0] for function in (ours, torch_s)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert elu(torch.tensor(float("nan"))).isnan()
    assert concat_elu(torch.full((1, 1, 1, 1), float("nan"))).isnan().all()


@pytest.mark.parametrize("head", ["logistics", "categorical"])
def test_channels_in_turn_are_those_of_the_whole_pixel(head):
    density = randomised(PixelCNNPlusPlus((3, 8, 8), filters=4, blocks=1, scales=1, mixtures=2, head=head)).double()
    x = grid_images(2, 3, 8, 8).double()
    with torch.no_grad():
        parameters = density.net(x)
        whole, written = density.head(parameters, x).pmf(), torch.zeros_like(x)
        for k, conditionals in enumerate(density.head.by_channel(parameters, written)):
            torch.testing.assert_close(conditionals.pmf()[:, 0], whole[:, k])
            written[:, k] = x[:, k]


def test_log_probabilities_are_the_same_whether_the_head_has_computed_them_or_not():
    density = randomised(PixelCNNPlusPlus((3, 8, 8), filters=4, blocks=1, scales=1, mixtures=2))
    x = grid_images(2, 3, 8, 8)
    conditionals = density.conditionals(x)
    torch.testing.assert_close(conditionals.log_prob(x), conditionals.log_prob(x.clone()))
