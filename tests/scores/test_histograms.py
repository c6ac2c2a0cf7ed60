"""Tests histograms, and that perturbations which fill their gaps are found."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from pixeldefend.images import to_uint8
from pixeldefend.scores import Evidence
from pixeldefend.scores.histograms import HistogramNetwork, histogram_of
from pixeldefend.scores.residual_ratio import ResidualRatio


@given(arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_values_are_counted(images):
    counts = histogram_of(torch.from_numpy(images).float())
    for image, found in zip(images, counts, strict=True):
        for channel, row in zip(image, found, strict=True):
            np.testing.assert_array_equal(row, np.bincount(channel.ravel(), minlength=256))


def test_a_value_between_two_levels_counts_for_both():
    values = torch.tensor([0.25, 254.5]).reshape(1, 1, 1, 2).requires_grad_()
    counts = histogram_of(values)
    assert counts[0, 0, [0, 1, 254, 255]].tolist() == [0.75, 0.25, 0.5, 0.5]
    (gradient,) = torch.autograd.grad(counts[0, 0, 255], values)
    assert gradient.flatten().tolist() == [0, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_takes_images_of_all_sizes(channels):
    network = HistogramNetwork(channels, filters=4)
    for size in ((8, 8), (32, 40)):
        assert network(torch.randint(256, (2, channels, *size)).float()).shape == (2, 8)


def test_black_and_white_are_left_out():
    network = HistogramNetwork(1, filters=4)
    images = torch.full((3, 1, 8, 8), 100.0)
    images[1, 0, 0], images[2, 0, 0] = 0, 255
    images[:, 0, 1:] = torch.arange(90, 146.0).reshape(7, 8)
    found = network(images)
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


def test_perturbations_that_fill_the_gaps_of_stretched_images_are_found(density, samples):
    """The images are so noisy that a step of one grey level cannot be seen in any other way."""
    rng = torch.Generator().manual_seed(0)
    noisy = to_uint8((0.4 + 0.1 * torch.randn(samples.shape, generator=rng)).clamp(0, 1))
    areas = []
    for clean in (4 * (noisy // 4) + 1, noisy):
        moved = (clean + torch.randint(-1, 2, clean.shape, generator=rng)).to(torch.uint8)
        with torch.no_grad():
            parts = [ResidualRatio().features(Evidence(density, x / 255)) for x in (clean, moved)]
            score = ResidualRatio().fit(parts[0][:200], *[parts[1][:200]] * len(ResidualRatio.copies))
            scores = torch.cat([score.evaluate(part[200:]) for part in parts])
        areas.append(roc_auc_score(np.repeat([0, 1], 100), scores))
    assert areas[0] > 0.95
    assert areas[1] < 0.7
