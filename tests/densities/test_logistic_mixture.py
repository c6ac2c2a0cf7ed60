"""The discretized mixture of logistics: masses that sum to 1, known values, exact tails."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import logistic

from pixeldefend.densities import logistic_mixture
from pixeldefend.densities.logistic_mixture import DiscretizedLogisticMixture

GRID = torch.arange(256, dtype=torch.float64) / 255


def mixture(seed: int, shape: tuple[int, ...] = (3,), k: int = 4) -> DiscretizedLogisticMixture:
    generator = torch.Generator().manual_seed(seed)
    logits, means, log_scales = (torch.randn(*shape, k, generator=generator, dtype=torch.float64) for _ in range(3))
    return DiscretizedLogisticMixture(logits, means, 2 * log_scales - 3)


def masses(distribution: DiscretizedLogisticMixture) -> torch.Tensor:
    """(*batch_shape, 256), each value by log_prob."""
    values = GRID.view(256, *[1] * len(distribution.batch_shape)).expand(256, *distribution.batch_shape)
    return distribution.log_prob(values).movedim(0, -1).exp()


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


def test_the_mode_is_known_where_all_masses_underflow():
    """A narrow logistic at the lower end, seen from far above: the nearest value is the most probable."""
    far = DiscretizedLogisticMixture(torch.zeros(1, 1), torch.full((1, 1), -0.9), torch.full((1, 1), -7.0))
    low, high = torch.tensor([200 / 255]), torch.tensor([232 / 255])
    assert far.pmf()[0, 200:233].max() == 0
    assert far.most_probable(low, high) == low


@pytest.mark.parametrize("logits", [[0.0, 1.0, -2.0], [0.0, -79.0, -81.0], [5.0, -500.0, 5.0]])
def test_sums_of_exponentials_are_those_of_torch(logits):
    ours, theirs = (torch.tensor([logits], requires_grad=True) for _ in range(2))
    found, expected = logistic_mixture._log_sum_exp(ours), theirs.logsumexp(-1)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_value_outside_the_support_is_refused():
    with pytest.raises(ValueError, match="value"):
        mixture(0).log_prob(torch.tensor(1.5))
