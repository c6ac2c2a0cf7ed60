import math

import numpy as np
import pytest
import torch
from helpers import grid_images, randomised

from pixeldefend.densities import Density, PixelCNNPlusPlus
from pixeldefend.scores import (
    SCORES,
    Evidence,
    LearnedScore,
    Typicality,
    bits_per_dim,
    excess_surprisal,
    low_entropy_excess_surprisal,
    make_score,
)


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
            score.fit(score.features(Evidence(density, grid_images(60, 1, 8, 8))))
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
    class Half:
        """Sites are sure in the left half, and surprising in the right one only."""

        x = torch.zeros(1, 1, 2, 2)
        expected_surprisal = torch.tensor([[[[0.5, 2.0], [0.5, 2.0]]]])
        surprisal_variance = torch.ones(1, 1, 2, 2)
        surprisal = torch.tensor([[[[0.5, 9.0], [0.5, 9.0]]]])

    assert low_entropy_excess_surprisal(Half()).item() == 0
    assert excess_surprisal(Half()).item() == pytest.approx(14 / 2)


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
    with pytest.raises(ValueError, match="unknown score 'nope'; there are: bits_per_dim"):
        make_score("nope")
