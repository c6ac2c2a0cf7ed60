"""Heads: what a net's parameters mean, with correct gradients."""

from functools import partial

import pytest
import torch
from helpers import grid_images

from pixeldefend.densities.heads import HEADS, PixelCategoricalHead, PixelLogisticMixtureHead, make_head
from pixeldefend.densities.logistic_mixture import DiscretizedLogisticMixture
from pixeldefend.errors import ParameterError


def test_a_bernoulli_head_is_a_sigmoid():
    logits = torch.randn(7, 1)
    coin = make_head("bernoulli").forward(logits, logits)
    torch.testing.assert_close(coin.pmf()[:, 1], logits[:, 0].sigmoid())
    torch.testing.assert_close(
        coin.log_prob(torch.ones(7)), torch.distributions.Bernoulli(logits=logits[:, 0]).log_prob(torch.ones(7))
    )


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_one_site(name):
    head = make_head(name, levels=4, mixtures=2)
    bias = head.initial_bias()
    assert bias.shape == (head.outputs,)
    distribution = head(bias.expand(2, 3, 5, -1), torch.zeros(2, 3, 5))
    assert distribution.batch_shape == (2, 3, 5)
    assert distribution.quantile(torch.rand(2, 3, 5)).shape == (2, 3, 5)
    assert distribution.part((slice(None), 1)).batch_shape == (2, 5)
    assert distribution.sample((2,)).shape == (2, 2, 3, 5)
    assert (head.levels is None) == (name in ("normals", "laplacians"))


def test_unknown_heads_are_refused():
    with pytest.raises(ParameterError, match="'cauchy'"):
        make_head("cauchy")
    with pytest.raises(ParameterError, match=r"mixtures .* 0"):
        make_head("logistics", mixtures=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("head", ["logistics", "categorical"])
def test_gradients_are_correct(head, channels):
    made = PixelLogisticMixtureHead(channels, 2) if head == "logistics" else PixelCategoricalHead(channels)
    made = made.double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(1, made.outputs, 1, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    x = (0.003 + 0.99 * torch.rand(1, channels, 1, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    fast = head == "categorical"  # of its thousands of derivatives random combinations are compared
    check = partial(torch.autograd.gradcheck, inputs=(parameters, x), fast_mode=fast)
    assert check(lambda p, v: made(p, v).log_prob(v))
    assert check(lambda p, v: made(p, v).surprisal_moments(), atol=1e-4)


def test_gradient_is_finite_at_both_ends_and_in_single_precision():
    head = PixelLogisticMixtureHead(1, 3)
    parameters = (20 * torch.randn(2, head.outputs, 4, 4)).requires_grad_()
    x = torch.tensor([0.0, 1 / 255, 0.5, 1.0]).expand(2, 1, 4, 4).clone().requires_grad_()
    log_prob = head(parameters, x).log_prob(x)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(parameters.grad).all()
    assert torch.isfinite(x.grad).all()


def test_channels_follow_the_joint_of_pixelcnnpp():
    """log p(R, G, B) is log sum_k pi_k prod_c mass_kc (Salimans et al. 2017, section 2.2), component by component."""
    k = 3
    head = PixelLogisticMixtureHead(3, k).double()
    parameters = torch.randn(1, head.outputs, 1, 1, dtype=torch.float64)
    x = grid_images(1, 3, 1, 1).double()
    flat = parameters.flatten()
    logits, means, log_scales, raw = flat.split([k, 3 * k, 3 * k, 3 * k])
    means, log_scales, a = means.view(3, k), log_scales.view(3, k), raw.view(3, k).tanh()
    r, g, _ = (2 * x - 1).flatten()
    shifted = [means[0], means[1] + a[0] * r, means[2] + a[1] * r + a[2] * g]
    joint = logits.log_softmax(0)
    for c in range(3):
        one = [
            DiscretizedLogisticMixture(torch.zeros(1), shifted[c][i : i + 1], log_scales[c][i : i + 1])
            for i in range(k)
        ]
        joint = joint + torch.stack([d.log_prob(x.flatten()[c]) for d in one])
    assert head(parameters, x).log_prob(x).sum().item() == pytest.approx(joint.logsumexp(0).item(), rel=1e-9)
