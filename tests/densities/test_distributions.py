"""The distributions of one site, as the heads make them, against their definitions."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from pixeldefend.densities.distributions import GridCategorical, LaplaceMixture, NormalMixture
from pixeldefend.densities.heads import HEADS, make_head
from pixeldefend.densities.logistic_mixture import DiscretizedLogisticMixture
from pixeldefend.errors import ParameterError


def logistics(*shape):
    generator = torch.Generator().manual_seed(2)
    logits, means, log_scales = (torch.randn(*shape, 4, generator=generator).double() for _ in range(3))
    return DiscretizedLogisticMixture(logits, means, 2 * log_scales - 3)


def categorical(*shape):
    return GridCategorical(torch.randn(*shape, 256, generator=torch.Generator().manual_seed(0)).double())


def test_categorical_is_exact_on_the_grid_and_linear_between():
    logits = torch.randn(256, dtype=torch.float64)
    distribution = GridCategorical(logits)
    grid = torch.arange(256, dtype=torch.float64) / 255
    torch.testing.assert_close(distribution.log_prob(grid).exp(), logits.softmax(0))
    between = distribution.log_prob(torch.tensor(10.25 / 255, dtype=torch.float64))
    ends = distribution.logits[10:12]
    torch.testing.assert_close(between, 0.75 * ends[0] + 0.25 * ends[1])


@pytest.mark.parametrize("distribution", [logistics(1), categorical(1)])
def test_sample_frequencies_match_the_masses(distribution):
    torch.manual_seed(0)
    n = 200_000
    values = (distribution.sample((n,)) * 255).round().long()[:, 0]
    frequencies = torch.bincount(values, minlength=256) / n
    pmf = distribution.pmf()[0].float()
    assert ((frequencies - pmf).abs() <= 5 * (pmf * (1 - pmf) / n).sqrt() + 1e-5).all()


@pytest.mark.parametrize("distribution", [logistics(4), categorical(4)])
def test_values_broadcast(distribution):
    values = distribution.sample((5,))
    assert values.shape == (5, 4)
    assert distribution.log_prob(values).shape == (5, 4)


def real_mixture(kind, *shape, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits, locations, log_scales = (torch.randn(*shape, k, generator=generator).double() for _ in range(3))
    return kind(logits, locations, 0.5 * log_scales)


@pytest.mark.parametrize("kind", [NormalMixture, LaplaceMixture])
def test_a_mixture_is_that_of_torch_and_integrates_to_one(kind):
    made = real_mixture(kind, 4)
    component = torch.distributions.Normal if kind is NormalMixture else torch.distributions.Laplace
    torchs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=made.logits), component(made.locations, made.log_scales.exp())
    )
    x = torch.linspace(-60, 60, 400_001).double()
    density = made.log_prob(x[:, None]).exp()
    torch.testing.assert_close(density, torchs.log_prob(x[:, None]).exp())
    torch.testing.assert_close(torch.trapezoid(density, x, dim=0), torch.ones(4).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [NormalMixture, LaplaceMixture])
def test_moments_of_the_surprisal_of_real_numbers(kind):
    made = real_mixture(kind, 5)
    x = torch.linspace(-60, 60, 400_001).double()[:, None]
    p, surprisal = made.log_prob(x).exp(), -made.log_prob(x)
    mean = torch.trapezoid(p * surprisal, x, dim=0)
    variance = torch.trapezoid(p * surprisal.square(), x, dim=0) - mean.square()
    torch.testing.assert_close(made.surprisal_moments()[0], mean, atol=0.02, rtol=0.02)
    torch.testing.assert_close(made.surprisal_moments()[1], variance, atol=0.05, rtol=0.05)
    torch.testing.assert_close(made.entropy(), made.surprisal_moments()[0])


@pytest.mark.parametrize("kind", [NormalMixture, LaplaceMixture])
def test_draws_of_real_numbers_follow_their_density(kind):
    one = real_mixture(kind, 1)
    many = kind(*(t.expand(20_000, -1) for t in (one.logits, one.locations, one.log_scales)))
    drawn = many.quantile(torch.rand(20_000, generator=torch.Generator().manual_seed(0))).numpy()
    x = torch.linspace(-40, 40, 200_001).double()
    cdf = torch.cumulative_trapezoid(one.log_prob(x).exp(), x).numpy()
    assert kstest(drawn, lambda v: np.interp(v, x[1:].numpy(), cdf)).pvalue > 1e-4
    with pytest.raises(ParameterError, match=r"0.5"):
        one.quantile(torch.rand(1), temperature=0.5)


def test_of_equally_probable_values_the_lowest_is_the_mode():
    flat = make_head("categorical", levels=5)(torch.zeros(1, 5), torch.zeros(1))
    assert flat.most_probable(torch.tensor([0.25]), torch.tensor([0.75])) == 0.25


@pytest.mark.parametrize("name", HEADS)
def test_below_is_the_distribution_function(name):
    torch.manual_seed(0)
    head = make_head(name, levels=7, mixtures=3)
    parameters = torch.randn(2, 4, head.outputs).double()
    distribution = head(parameters, torch.zeros(2, 4).double())
    if head.levels is not None:
        pmf = distribution.pmf()
        for k in range(head.levels):
            value = torch.full((2, 4), k / (head.levels - 1)).double()
            torch.testing.assert_close(distribution.below(value), pmf[..., :k].sum(-1), atol=1e-6, rtol=1e-5)
    else:
        value = torch.randn(2, 4).double()
        step = 1e-5
        slope = (distribution.below(value + step) - distribution.below(value - step)) / (2 * step)
        torch.testing.assert_close(slope, distribution.log_prob(value).exp(), atol=1e-6, rtol=1e-4)
        far = torch.full((2, 4), 1e6).double()
        torch.testing.assert_close(distribution.below(far), torch.ones(2, 4).double())
        torch.testing.assert_close(distribution.below(-far), torch.zeros(2, 4).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "logistics"])
def test_quantiles_invert_the_distribution_function(name):
    torch.manual_seed(0)
    head = make_head(name, levels=7, mixtures=3)
    distribution = head(torch.randn(200, head.outputs).double(), torch.zeros(200).double())
    u = torch.rand(200).double()
    value = distribution.quantile(u)
    upper = distribution.below(value) + distribution.log_prob(value).exp()
    assert (distribution.below(value) <= u + 1e-12).all()
    assert (u <= upper + 1e-12).all()
    sharp = distribution.quantile(u, temperature=1e-3)  # nearly always the most probable value
    assert (sharp == distribution.most_probable(torch.zeros(200), torch.ones(200))).double().mean() > 0.9


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "logistics"])
def test_the_mode_is_the_most_probable_value_within_reach(name):
    torch.manual_seed(1)
    head = make_head(name, levels=7, mixtures=3)
    distribution = head(2 * torch.randn(300, head.outputs).double(), torch.zeros(300).double())
    pmf = distribution.pmf()
    levels = pmf.shape[-1]
    low, high = torch.randint(levels, (2, 300)).sort(0).values
    mode = distribution.most_probable(low / (levels - 1), high / (levels - 1))
    for i in range(300):
        window = pmf[i, low[i] : high[i] + 1]
        chosen = (mode[i] * (levels - 1)).round().long() - low[i]
        assert 0 <= chosen < len(window)
        assert window[chosen] == pytest.approx(window.max().item(), rel=1e-9, abs=1e-15)
