"""The conditionals: masses that sum to 1, known values, exact tails, correct gradients."""

import math

import numpy as np
import pytest
import torch
from helpers import grid_images
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, logistic

from pixeldefend.densities.heads import (
    HEADS,
    DiscretizedLogisticMixture,
    GridCategorical,
    LaplaceMixture,
    NormalMixture,
    PixelCategoricalHead,
    PixelLogisticMixtureHead,
    make_head,
)

GRID = torch.arange(256, dtype=torch.float64) / 255


def mixture(seed: int, shape: tuple[int, ...] = (3,), k: int = 4) -> DiscretizedLogisticMixture:
    generator = torch.Generator().manual_seed(seed)
    logits, means, log_scales = (torch.randn(*shape, k, generator=generator, dtype=torch.float64) for _ in range(3))
    return DiscretizedLogisticMixture(logits, means, 2 * log_scales - 3)


def masses(distribution: DiscretizedLogisticMixture | GridCategorical) -> torch.Tensor:
    """(*batch_shape, 256), each value by log_prob."""
    values = GRID.view(256, *[1] * len(distribution.batch_shape)).expand(256, *distribution.batch_shape)
    return torch.stack([distribution.log_prob(value) for value in values], -1).exp()


@given(
    logits=st.lists(st.floats(-20, 20), min_size=1, max_size=4),
    mean=st.floats(-3, 3),
    spread=st.floats(0, 2),
    log_scale=st.floats(-12, 3),
)
@settings(max_examples=60, deadline=None)
def test_mixture_masses_sum_to_one(logits, mean, spread, log_scale):
    k = len(logits)
    means = torch.linspace(mean - spread, mean + spread, k, dtype=torch.float64)
    distribution = DiscretizedLogisticMixture(
        torch.tensor(logits, dtype=torch.float64), means, torch.full((k,), log_scale, dtype=torch.float64)
    )
    by_log_prob = masses(distribution)
    assert by_log_prob.sum().item() == pytest.approx(1, abs=1e-10)
    torch.testing.assert_close(distribution.pmf(), by_log_prob, atol=1e-12, rtol=1e-6)


def test_mixture_matches_differences_of_the_logistic_cdf():
    weights, means, scales = np.array([0.3, 0.7]), np.array([-0.4, 0.5]), np.array([0.02, 0.3])
    distribution = DiscretizedLogisticMixture(*(torch.tensor(v) for v in (np.log(weights), means, np.log(scales))))
    edges = np.r_[-np.inf, (np.arange(255) + 0.5) / 127.5 - 1, np.inf]
    expected = (weights * np.diff(logistic.cdf(edges[:, None], means, scales), axis=0)).sum(1)
    np.testing.assert_allclose(masses(distribution).numpy(), expected, atol=1e-12)


def test_far_tail_is_exact_where_a_difference_of_cdfs_is_zero():
    distribution = DiscretizedLogisticMixture(torch.zeros(1), torch.tensor([-0.9]), torch.tensor([-7.0]))
    value = torch.tensor(200 / 255)
    # log (F(b) - F(a)) is about -(a - mean) / s + log(1 - exp(-width / s)) that far out
    scale = math.exp(-7)
    lower = 2 * 200 / 255 - 1 + 0.9 - 1 / 255
    expected = -lower / scale + math.log(-math.expm1(-2 / 255 / scale))
    assert distribution.log_prob(value).item() == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(distribution.log_prob(value).item())


@pytest.mark.parametrize("where", [0.0, 1 / 255, 0.5, 254 / 255, 1.0])
def test_mixture_is_continuous_off_the_grid(where):
    distribution = mixture(0)
    for step in (-1e-10, 1e-10):
        nearby = distribution.log_prob(torch.tensor(min(1, max(0, where + step)), dtype=torch.float64))
        torch.testing.assert_close(
            nearby, distribution.log_prob(torch.tensor(where, dtype=torch.float64)), atol=1e-5, rtol=0
        )


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
    assert torch.autograd.gradcheck(lambda p, v: made(p, v).log_prob(v), (parameters, x))
    assert torch.autograd.gradcheck(lambda p, v: made(p, v).surprisal_moments(), (parameters, x), atol=1e-4)


def test_gradient_is_finite_at_both_ends_and_in_single_precision():
    head = PixelLogisticMixtureHead(1, 3)
    parameters = (20 * torch.randn(2, head.outputs, 4, 4)).requires_grad_()
    x = torch.tensor([0.0, 1 / 255, 0.5, 1.0]).expand(2, 1, 4, 4).clone().requires_grad_()
    log_prob = head(parameters, x).log_prob(x)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(parameters.grad).all()
    assert torch.isfinite(x.grad).all()


def test_single_precision_agrees_with_double_on_the_whole_grid():
    """At 1/255 and 254/255 rounding must not let in the tail beyond the end, which may be thousands of times larger."""
    for mean in (-1.2, -0.99, 0.99, 1.2):
        parameters = torch.tensor([0.0]), torch.tensor([mean]), torch.tensor([-7.0])
        single = DiscretizedLogisticMixture(*parameters).log_prob(GRID.float())
        double = DiscretizedLogisticMixture(*(p.double() for p in parameters)).log_prob(GRID)
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_moments_are_those_of_the_surprisal():
    distribution = mixture(1)
    pmf = masses(distribution)
    surprisal = -pmf.log()
    mean = (pmf * surprisal).sum(-1)
    entropy, variance = distribution.surprisal_moments()
    torch.testing.assert_close(entropy, mean)
    torch.testing.assert_close(distribution.entropy(), mean)
    torch.testing.assert_close(variance, (pmf * (surprisal - mean[..., None]).square()).sum(-1))


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


def test_categorical_is_exact_on_the_grid_and_linear_between():
    logits = torch.randn(256, dtype=torch.float64)
    distribution = GridCategorical(logits)
    torch.testing.assert_close(masses(distribution), logits.softmax(0))
    between = distribution.log_prob(torch.tensor(10.25 / 255, dtype=torch.float64))
    ends = distribution.logits[10:12]
    torch.testing.assert_close(between, 0.75 * ends[0] + 0.25 * ends[1])


@pytest.mark.parametrize(
    "distribution", [mixture(2, (1,)), GridCategorical(torch.randn(1, 256, generator=torch.Generator().manual_seed(0)))]
)
def test_sample_frequencies_match_the_masses(distribution):
    torch.manual_seed(0)
    n = 200_000
    values = (distribution.sample((n,)) * 255).round().long()[:, 0]
    frequencies = torch.bincount(values, minlength=256) / n
    pmf = distribution.pmf()[0].float()
    assert ((frequencies - pmf).abs() <= 5 * (pmf * (1 - pmf) / n).sqrt() + 1e-5).all()


@pytest.mark.parametrize("distribution", [mixture(3, (4,)), GridCategorical(torch.randn(4, 256))])
def test_values_broadcast(distribution):
    values = distribution.sample((5,))
    assert values.shape == (5, 4)
    assert distribution.log_prob(values).shape == (5, 4)


def test_a_value_outside_the_support_is_refused():
    with pytest.raises(ValueError, match="value"):
        mixture(0).log_prob(torch.tensor(1.5))


# -- real numbers, and heads of one site -------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"sampled at temperature 1, got 0.5"):
        one.quantile(torch.rand(1), temperature=0.5)


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
    with pytest.raises(ValueError, match=r"head must be one of bernoulli, .* got 'cauchy'"):
        make_head("cauchy")
    with pytest.raises(ValueError, match="mixtures at least 1, got 256 and 0"):
        make_head("logistics", mixtures=0)


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


def test_of_equally_probable_values_the_lowest_is_the_mode():
    flat = make_head("categorical", levels=5)(torch.zeros(1, 5), torch.zeros(1))
    assert flat.most_probable(torch.tensor([0.25]), torch.tensor([0.75])) == 0.25


def test_the_mode_is_known_where_all_masses_underflow():
    """A narrow logistic at the lower end, seen from far above: the nearest value is the most probable."""
    far = DiscretizedLogisticMixture(torch.zeros(1, 1), torch.full((1, 1), -0.9), torch.full((1, 1), -7.0))
    low, high = torch.tensor([200 / 255]), torch.tensor([232 / 255])
    assert far.pmf()[0, 200:233].max() == 0
    assert far.most_probable(low, high) == low
