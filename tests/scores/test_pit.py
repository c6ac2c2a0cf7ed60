"""Statistics of the probability integral transform."""

import math

import pytest
import torch
from scipy.stats import kstest

from pixeldefend.scores import Evidence, make_score
from pixeldefend.scores.pit import PitLag, pit_tails, pit_uniformity


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


def test_lag_correlation_by_hand(evidence_of):
    z = torch.zeros(2, 1, 1, 6)
    z[0, 0, 0] = torch.tensor([1.0, -1, 1, -1, 1, -1])
    z[1, 0, 0] = torch.tensor([1.0, 2, 3, 4, 5, 6])
    evidence = evidence_of(residuals=z, x=z)
    assert PitLag(columns=1)(evidence).tolist() == pytest.approx([1.0, -1.0])
    assert PitLag(channels=1)(evidence).tolist() == [0, 0]
