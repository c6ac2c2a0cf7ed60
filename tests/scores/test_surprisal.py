"""Statistics of surprisal, by hand and on samples of the model."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import grid_images

from pixeldefend.densities import build
from pixeldefend.errors import ParameterError
from pixeldefend.scores import Evidence, bits_per_dim
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


def test_low_entropy_score_ignores_unsure_sites(evidence_of):
    # sure in the left half, and surprising in the right one only
    half = evidence_of(
        expected_surprisal=torch.tensor([[[[0.5, 2.0], [0.5, 2.0]]]]),
        surprisal_variance=torch.ones(1, 1, 2, 2),
        surprisal=torch.tensor([[[[0.5, 9.0], [0.5, 9.0]]]]),
    )
    assert low_entropy_excess_surprisal(half).item() == 0
    assert excess_surprisal(half).item() == pytest.approx(14 / 2)


def test_sites_of_negative_entropy_are_sure(evidence_of):
    """Differential entropies of real numbers, and what rounding makes of a certain site."""
    parts = dict(surprisal=torch.full((1, 1, 2, 2), -3.0), surprisal_variance=torch.full((1, 1, 2, 2), 4.0))
    evidence = evidence_of(expected_surprisal=torch.full((1, 1, 2, 2), -4.0), **parts)
    assert low_entropy_excess_surprisal(evidence).item() == pytest.approx(4 / math.sqrt(16))


def test_a_patch_and_a_few_sites_stand_out(evidence_of):
    surprisal = torch.full((1, 2, 10, 12), 1.0)
    surprisal[0, :, 3:7, 5:9] = 3.0
    evidence = evidence_of(
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


def test_the_three_worst_pixels_count_all_channels_together(evidence_of):
    surprisal = torch.zeros(1, 3, 4, 4)
    surprisal[0, :, 0, 0], surprisal[0, 0, 1, 1], surprisal[0, 1, 2, 2], surprisal[0, 2, 3, 3] = 2.0, 3.0, 1.5, 0.5
    parts = dict(expected_surprisal=torch.zeros(1, 3, 4, 4), surprisal_variance=torch.ones(1, 3, 4, 4))
    expected = (6 + 3 + 1.5) / 3 / math.sqrt(3)
    assert top_pixels(evidence_of(surprisal=surprisal, **parts)).item() == pytest.approx(expected)


def test_compressed_lengths_are_those_of_files(colour):
    flat, noise = torch.full((1, 3, 8, 8), 0.2), grid_images(1, 3, 8, 8)
    lengths = compressed_length(Evidence(colour, torch.cat([(flat * 255).round() / 255, noise])))
    assert lengths[0] < 1.5
    assert lengths[1] > 0.8 * math.log(256)
    with pytest.raises(ParameterError):
        compressed_length(
            Evidence(build({"model": "fvsbn", "event_shape": [7], "head": "bernoulli"}), torch.zeros(1, 7))
        )
