import copy
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import grid_images, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from pixeldefend.densities import Density, PixelCNNPlusPlus, build
from pixeldefend.scores import (
    SCORES,
    Evidence,
    LearnedScore,
    NoiseContrast,
    Pooled,
    bits_per_dim,
    make_score,
    teach,
    with_noise,
)
from pixeldefend.scores.combined import quantiles_of, to_normal, too_high
from pixeldefend.scores.learned import SurprisalGiven, Typicality
from pixeldefend.scores.perturbation import gradient_norm, likeliest_gain, smoothing_gain
from pixeldefend.scores.pit import PitLag, pit_tails, pit_uniformity
from pixeldefend.scores.surprisal import (
    BandExcess,
    compressed_length,
    excess_surprisal,
    first_channel_excess_surprisal,
    later_channels_excess_surprisal,
    low_entropy_excess_surprisal,
    patch_surprisal,
    top_pixels,
    top_surprisal,
)


class Given(Evidence):
    """Evidence of given parts."""

    def __init__(self, **parts):
        vars(self).update(parts)


@pytest.fixture(scope="module")
def density() -> Density:
    torch.manual_seed(0)
    density = PixelCNNPlusPlus((1, 8, 8), filters=4, blocks=1, scales=2, mixtures=2)
    with torch.no_grad():  # narrow: its entropies are below 1 nat
        density.net.last.weight[4:] *= 5
        density.net.last.bias[4:] = -6.5
        density.net.last.bias[0] = 6
    return randomised(density, scale=0.05)


@pytest.fixture(scope="module")
def samples(density):
    return density.sample(300, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SCORES)
def test_one_score_an_image_alone_as_in_a_batch_and_finite(name, density):
    score = make_score(name)
    x = grid_images(6, 1, 8, 8)
    if isinstance(score, LearnedScore):
        with torch.inference_mode():
            teach(score, lambda images: score.features(Evidence(density, images)), grid_images(60, 1, 8, 8))
    together, alone = score(Evidence(density, x)), score(Evidence(density, x[:1]))
    assert together.shape == (6,)
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


def test_bits_per_dim_is_the_density_s(density, samples):
    torch.testing.assert_close(bits_per_dim(Evidence(density, samples)), density.bits_per_dim(samples))


@pytest.mark.parametrize("score", [excess_surprisal, low_entropy_excess_surprisal])
def test_excess_surprisal_of_the_model_s_own_images_has_mean_zero_and_variance_one(score, density, samples):
    with torch.inference_mode():
        values = score(Evidence(density, samples)).double()
    if score is low_entropy_excess_surprisal:
        values = values[values != 0]  # an image may have no site that is sure
    assert len(values) > 100
    assert abs(values.mean().item()) < 4 / math.sqrt(len(values))
    assert 0.6 < values.var().item() < 1.6


def test_excess_surprisal_by_hand(density):
    x = grid_images(2, 1, 8, 8)
    distribution = density.conditionals(x)
    pmf = distribution.pmf().double()
    surprisal = -distribution.log_prob(x).double()
    entropy = -(pmf * pmf.clamp(min=1e-300).log()).sum(-1)
    variance = (pmf * pmf.clamp(min=1e-300).log().square()).sum(-1) - entropy.square()
    expected = (surprisal - entropy).flatten(1).sum(1) / variance.flatten(1).sum(1).sqrt()
    torch.testing.assert_close(excess_surprisal(Evidence(density, x)).double(), expected, rtol=1e-3, atol=1e-3)


def test_low_entropy_score_ignores_unsure_sites():
    # sure in the left half, and surprising in the right one only
    half = Given(
        expected_surprisal=torch.tensor([[[[0.5, 2.0], [0.5, 2.0]]]]),
        surprisal_variance=torch.ones(1, 1, 2, 2),
        surprisal=torch.tensor([[[[0.5, 9.0], [0.5, 9.0]]]]),
    )
    assert low_entropy_excess_surprisal(half).item() == 0
    assert excess_surprisal(half).item() == pytest.approx(14 / 2)


def test_typicality_is_the_distance_from_the_mean(density):
    x = grid_images(4, 1, 8, 8)
    bits = bits_per_dim(Evidence(density, x))
    score = Typicality().fit(bits)
    assert score.center_ == pytest.approx(bits.mean().item(), rel=1e-6)
    torch.testing.assert_close(score(Evidence(density, x)), (bits - score.center_).abs())


def test_scores_by_site_say_what_they_need():
    class Flat(Density):
        def log_prob(self, x):
            return torch.zeros(len(x))

        def sample(self, n, *, generator=None):
            raise NotImplementedError

    evidence = Evidence(Flat((2,)), torch.zeros(3, 2))
    assert np.allclose(bits_per_dim(evidence), 0)
    with pytest.raises(ValueError, match="needs a density with conditionals; Flat has only"):
        excess_surprisal(evidence)


def test_unknown_scores_are_refused():
    with pytest.raises(ValueError, match="unknown statistic 'nope'; there are: bits_per_dim"):
        make_score("nope")


# -- ranks, patches, regressions ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colour() -> Density:
    torch.manual_seed(0)
    return randomised(PixelCNNPlusPlus((3, 8, 8), filters=4, blocks=1, scales=1, mixtures=2), scale=0.05)


@pytest.fixture(scope="module")
def colourful(colour):
    return colour.sample(100, generator=torch.Generator().manual_seed(0))


def test_ranks_of_the_model_s_own_images_are_uniform_and_independent(colour, colourful):
    evidence = Evidence(colour, colourful)
    with torch.inference_mode():
        u, z = evidence.pit.double(), evidence.residuals.double()
    assert u.min() > 0
    assert u.max() < 1
    assert kstest(u.flatten().numpy(), "uniform").pvalue > 0.01
    assert z.mean().abs() < 4 / math.sqrt(z.numel())
    assert z.var().item() == pytest.approx(1, abs=0.05)
    for name in ("pit_lag_channels", "pit_lag_columns", "pit_lag_rows"):
        with torch.inference_mode():
            lags = make_score(name)(evidence)
        assert abs(lags.mean().item()) < 4 * lags.std().item() / math.sqrt(len(lags)) + 1 / 56
    with torch.inference_mode():
        assert pit_tails(evidence).mean().item() == pytest.approx(0.02, abs=0.005)
        # 1.36 is the Kolmogorov distribution's upper twentieth
        assert (pit_uniformity(evidence) > 1.36).double().mean().item() < 0.15


def test_uniformity_is_scipy_s_statistic(colour, colourful):
    evidence = Evidence(colour, colourful[:3])
    with torch.inference_mode():
        ours, pit = pit_uniformity(evidence), evidence.pit.flatten(1).double()
    expected = [kstest(row.numpy(), "uniform").statistic * math.sqrt(192) for row in pit]
    assert ours.tolist() == pytest.approx(expected, rel=1e-4)


def test_lag_correlation_by_hand():
    z = torch.zeros(2, 1, 1, 6)
    z[0, 0, 0] = torch.tensor([1.0, -1, 1, -1, 1, -1])
    z[1, 0, 0] = torch.tensor([1.0, 2, 3, 4, 5, 6])
    evidence = Given(residuals=z, x=z)
    assert PitLag(columns=1)(evidence).tolist() == pytest.approx([1.0, -1.0])
    assert PitLag(channels=1)(evidence).tolist() == [0, 0]


def test_a_patch_and_a_few_sites_stand_out():
    surprisal = torch.full((1, 2, 10, 12), 1.0)
    surprisal[0, :, 3:7, 5:9] = 3.0
    evidence = Given(
        surprisal=surprisal,
        expected_surprisal=torch.ones_like(surprisal),
        surprisal_variance=torch.full_like(surprisal, 4.0),
        x=surprisal,
    )
    # 4 x 4 pixels of 2 channels, each 2 nats above, of variance 4
    assert patch_surprisal(evidence).item() == pytest.approx(2 * 32 / math.sqrt(4 * 32))
    assert top_surprisal(evidence).item() == pytest.approx(1.0)


def test_bands_and_channels_add_up_to_the_whole(colour, colourful):
    evidence = Evidence(colour, colourful[:5])
    with torch.inference_mode():
        variance, entropy = evidence.surprisal_variance, evidence.expected_surprisal
        whole = excess_surprisal(evidence) * variance.flatten(1).sum(1).sqrt()
        edges = [-math.inf, 1, 2, 2.75, 3.5, math.inf]
        parts = [
            BandExcess(a, b)(evidence) * variance.where((entropy >= a) & (entropy < b), 0).flatten(1).sum(1).sqrt()
            for a, b in pairwise(edges)
        ]
        torch.testing.assert_close(sum(parts), whole, rtol=1e-3, atol=1e-2)
        channels = [
            first_channel_excess_surprisal(evidence) * variance[:, :1].flatten(1).sum(1).sqrt(),
            later_channels_excess_surprisal(evidence) * variance[:, 1:].flatten(1).sum(1).sqrt(),
        ]
        torch.testing.assert_close(sum(channels), whole, rtol=1e-3, atol=1e-2)


def test_a_regression_is_that_of_least_squares():
    random = np.random.RandomState(0)
    x = random.rand(50)
    y = 3 * x + 2 + 0.1 * random.randn(50)
    score = SurprisalGiven(None).fit(torch.from_numpy(np.stack([y, x], 1)))
    slope, intercept = np.polyfit(x, y, 1)
    assert (score.slope_, score.intercept_) == (pytest.approx(slope), pytest.approx(intercept))
    left = score.of(torch.tensor([[5.0, 1.0]]))
    assert left.item() == pytest.approx(5 - slope - intercept, rel=1e-5)


def test_compressed_lengths_are_those_of_files(colour):
    flat, noise = torch.full((1, 3, 8, 8), 0.2), grid_images(1, 3, 8, 8)
    lengths = compressed_length(Evidence(colour, torch.cat([(flat * 255).round() / 255, noise])))
    assert lengths[0] < 1.5
    assert lengths[1] > 0.8 * math.log(256)
    with pytest.raises(ValueError, match="8-bit images"):
        compressed_length(
            Evidence(build({"model": "fvsbn", "event_shape": [7], "head": "bernoulli"}), torch.zeros(1, 7))
        )


def test_gradient_norm_is_that_of_finite_differences(density):
    x = 0.25 + 0.5 * grid_images(1, 1, 8, 8)
    with torch.inference_mode():
        norm = gradient_norm(Evidence(density, x)).item()
    double = copy.deepcopy(density).double()
    steps = 1e-5 * torch.eye(64).double().reshape(64, 1, 8, 8)
    with torch.no_grad():
        difference = (double.log_prob(x.double() + steps) - double.log_prob(x.double() - steps)) / 2e-5
    assert norm == pytest.approx(difference.norm().item(), rel=1e-2)


def test_the_three_worst_pixels_count_all_channels_together():
    surprisal = torch.zeros(1, 3, 4, 4)
    surprisal[0, :, 0, 0], surprisal[0, 0, 1, 1], surprisal[0, 1, 2, 2], surprisal[0, 2, 3, 3] = 2.0, 3.0, 1.5, 0.5
    parts = dict(expected_surprisal=torch.zeros(1, 3, 4, 4), surprisal_variance=torch.ones(1, 3, 4, 4))
    expected = (6 + 3 + 1.5) / 3 / math.sqrt(3)
    assert top_pixels(Given(surprisal=surprisal, **parts)).item() == pytest.approx(expected)


def test_moving_to_likelier_values_gains(density, samples):
    with torch.inference_mode():
        evidence = Evidence(density, samples[:20])
        assert (likeliest_gain(evidence) > 0).double().mean() > 0.9


# -- several as one ----------------------------------------------------------------------------------------------------


COLUMNS = ["bits_per_dim", "excess_surprisal", "pit_tails"]


def pooled(clean):
    """A Pooled of given columns."""
    return Pooled(dict.fromkeys(COLUMNS, bits_per_dim)).fit(torch.from_numpy(clean))


def test_pooled_scores_see_what_is_high_in_one_or_a_little_high_in_all():
    random = np.random.RandomState(0)

    def clean(n):
        z = random.randn(n, 3)
        return np.stack([np.exp(z[:, 0]), 5 * z[:, 1] - 7, z[:, 2] ** 3], 1)

    score = pooled(clean(4000))
    usual = score.of(torch.from_numpy(clean(4000)))
    odd = torch.tensor([[1.0, 40.0, 0.0], [90.0, -7.0, 0.0], [np.exp(2), 3.0, 8.0]]).double()
    assert (score.of(odd) > usual.quantile(0.95)).all()
    low = torch.tensor([[0.01, -30.0, -9.0]]).double()
    assert score.of(low).item() < 0
    # z+^2 of three normal numbers has mean 3/2, whatever their units
    normal = 5 * random.randn(8000, 3) - 7
    length = pooled(normal[:4000]).of(torch.from_numpy(normal[4000:])).clamp(min=0)
    assert length.square().mean().item() == pytest.approx(1.5, rel=0.1)


@given(
    rows=st.lists(st.tuples(*[st.floats(-40, 40)] * 3), min_size=1, max_size=8),
    power=st.sampled_from([2, 4]),
    more=st.floats(1e-6, 5),
    column=st.integers(0, 2),
)
def test_what_is_too_high_is_the_norm_and_below_zero_the_highest(rows, power, more, column):
    z = torch.tensor(rows, dtype=torch.double, requires_grad=True)
    found, highest = too_high(z, power), z.amax(1)
    norm = z.clamp(min=0).pow(power).sum(1).pow(1 / power)
    torch.testing.assert_close(found, torch.where(highest > 0, norm, highest))
    raised = z.detach().clone()
    raised[:, column] += more
    assert (too_high(raised, power) >= found - 1e-9).all()
    assert (too_high(z + more, power) > found).all()  # no ties: each image keeps its place
    (gradient,) = torch.autograd.grad(found.sum(), z)
    assert torch.isfinite(gradient).all()
    assert (gradient >= 0).all()


def test_pooled_scores_keep_the_order_of_a_single_member_however_far():
    random = np.random.RandomState(0)
    clean = random.randn(300, 3)
    new = np.median(clean, 0) * np.ones((50, 1))
    new[:, 1] = np.sort(10 * random.rand(50)) + np.median(clean[:, 1])
    assert (np.diff(pooled(clean).of(torch.from_numpy(new)).numpy()) > 0).all()


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=20, deadline=None)
def test_pooled_scores_do_not_depend_on_the_members_units(scale, shift):
    random = np.random.RandomState(1)
    clean, new = random.randn(300, 3), 3 * random.randn(40, 3)
    expected = pooled(clean).of(torch.from_numpy(new))
    torch.testing.assert_close(pooled(scale * clean + shift).of(torch.from_numpy(scale * new + shift)), expected)


def test_pooled_scores_leave_out_what_does_not_differ_and_refuse_too_few():
    random = np.random.RandomState(0)
    clean = random.randn(60, 3)
    clean[:, 1] = 7
    assert pooled(clean).members_ == ["bits_per_dim", "pit_tails"]
    with pytest.raises(ValueError, match="at least 50 clean images to fit on, got 49"):
        pooled(clean[:49])
    with pytest.raises(ValueError, match="no score differs"):
        pooled(np.ones((60, 3)))


def test_a_contrast_is_fisher_s_discriminant():
    """Of normal numbers with covariance S, shifted by delta: w = S^-1 delta, whatever noise does not move included."""
    random = np.random.RandomState(0)
    mix = np.array([[1.0, 0, 0], [0.9, 0.3, 0], [0, 0, 1]])
    clean = random.randn(20000, 3) @ mix.T
    score = NoiseContrast(dict.fromkeys(COLUMNS, bits_per_dim)).fit(
        torch.from_numpy(clean), torch.from_numpy(clean + np.array([0.2, 0, 0]))
    )
    expected = np.linalg.solve(np.corrcoef(clean.T), [1, 0, 0])  # the members are scaled to variance 1
    weights = np.array(score.weights_)
    assert weights / np.linalg.norm(weights) == pytest.approx(expected / np.linalg.norm(expected), abs=0.03)
    assert weights[1] < -0.5  # not moved itself, but it tells what to expect of the first
    values = score.of(torch.from_numpy(random.randn(20000, 3) @ mix.T))
    assert values.std().item() == pytest.approx(1, abs=0.05)
    still = NoiseContrast(dict.fromkeys(COLUMNS, bits_per_dim)).fit(torch.from_numpy(clean), torch.from_numpy(clean))
    assert (still.of(torch.from_numpy(clean)) == 0).all()
    with pytest.raises(ValueError, match="with noise"):
        NoiseContrast(dict.fromkeys(COLUMNS, bits_per_dim)).fit(torch.from_numpy(clean))


def test_noise_is_small_on_the_grid_the_same_every_time_and_none_in_rows():
    x = grid_images(20, 3, 8, 8)
    noisy = with_noise(x)
    steps = (255 * (noisy - x)).double()
    assert (steps - steps.round()).abs().max() < 1e-4
    assert sorted(steps.round().unique().tolist()) == [-1, 0, 1]
    assert (steps.round() != 0).double().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert torch.equal(noisy, with_noise(x))
    assert torch.equal(with_noise(x[:, 0, 0]), x[:, 0, 0])


def test_normal_numbers_are_normal_and_keep_the_order():
    random = np.random.RandomState(0)
    clean, new = torch.from_numpy(np.exp(random.randn(5000))), torch.from_numpy(np.exp(random.randn(5000)))
    z = to_normal(new, quantiles_of(clean))
    assert z.mean().item() == pytest.approx(0, abs=0.05)
    assert z.std().item() == pytest.approx(1, abs=0.05)
    far = to_normal(torch.linspace(-1e6, 1e6, 1001).double(), quantiles_of(clean))
    assert (far.diff() > 0).all()
    assert far.abs().max() < 40  # however far


def test_fused_scores_are_little_more_than_the_highest_of_their_parts(density):
    score = make_score("fused")
    with torch.inference_mode():
        x, new = grid_images(60, 1, 8, 8), grid_images(7, 1, 8, 8, seed=1)
        teach(score, lambda images: score.features(Evidence(density, images)), x)
        parts = []
        for name, quantiles in score.quantiles_.items():
            part, evidence = make_score(name), Evidence(density, new)
            if isinstance(part, LearnedScore):
                teach(part, lambda images, part=part: part.features(Evidence(density, images)), x)
            parts.append(to_normal(part(evidence), quantiles))
        fused, highest = score(Evidence(density, new)), torch.stack(parts).amax(0)
        torch.testing.assert_close(fused, too_high(torch.stack(parts, 1), 4))
        assert ((fused >= highest) & (fused <= 3**0.25 * highest.clamp(min=0) + 1e-9)).all()
        again = make_score("fused").recall(json.loads(json.dumps(score.learned())))
        torch.testing.assert_close(again(Evidence(density, new)), score(Evidence(density, new)))


@pytest.mark.parametrize(
    "config",
    [
        dict(model="fvsbn", event_shape=[1, 6, 6], head="bernoulli"),
        dict(model="rnade", event_shape=[1, 6, 6], hidden=8, mixtures=2),
        dict(model="made", event_shape=[9], hidden=[20], head="categorical", levels=5),
        dict(model="rnade", event_shape=[9], hidden=8, mixtures=2),
    ],
)
def test_every_kind_of_density_has_fused_scores(config):
    density = randomised(build(config), scale=0.3)
    with torch.inference_mode():
        x = density.sample(80)
        score = make_score("fused")
        teach(score, lambda images: score.features(Evidence(density, images)), x)
        assert torch.isfinite(score(Evidence(density, x))).all()
        assert "top_pixels" in score.quantiles_
        assert "top_surprisal" in score.parts["pooled"].members_
        assert "later_channels_excess_surprisal" not in score.parts["pooled"].members_


def test_sites_of_negative_entropy_are_sure():
    """Differential entropies of real numbers, and what rounding makes of a certain site."""
    parts = dict(surprisal=torch.full((1, 1, 2, 2), -3.0), surprisal_variance=torch.full((1, 1, 2, 2), 4.0))
    evidence = Given(expected_surprisal=torch.full((1, 1, 2, 2), -4.0), **parts)
    assert low_entropy_excess_surprisal(evidence).item() == pytest.approx(4 / math.sqrt(16))


def test_smoothing_takes_a_speck_away(density):
    x = torch.full((1, 1, 8, 8), 0.4).mul(255).round() / 255
    speck = x.clone()
    speck[0, 0, 4, 4] = 1
    with torch.inference_mode():
        flat, specked = (smoothing_gain(Evidence(density, images)).item() for images in (x, speck))
        expected = (density.bits_per_dim(speck) - density.bits_per_dim(x)).item()
    assert flat == pytest.approx(0, abs=1e-5)
    assert specked == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="smoothing_gain is for densities of images"):
        smoothing_gain(Evidence(build({"model": "rnade", "event_shape": [1, 3, 3]}), torch.zeros(1, 1, 3, 3)))
