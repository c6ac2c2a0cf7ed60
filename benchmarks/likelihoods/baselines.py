"""What WaveNet is compared with: two simple models of audio."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixeldefend.data import Images, mu_law_decode


def order_1_table(training: Images, test: Images) -> Tensor:
    """Scores test data by how often each value follows each in the training data, plus a half. Returns (N,) nats."""
    counts = torch.full((257, 256), 0.5, dtype=torch.float64)  # the last row: at the start

    def pairs(images: Images) -> tuple[Tensor, Tensor]:
        x = images.x.long()
        return torch.cat([torch.full_like(x[:, :1], 256), x[:, :-1]], 1), x

    before, x = pairs(training)
    counts.view(-1).scatter_add_(0, (256 * before + x).flatten(), torch.ones(x.numel(), dtype=torch.float64))
    log_p = (counts / counts.sum(1, keepdim=True)).log()
    return -log_p[pairs(test)].sum(1)


def linear_prediction(training: Images, test: Images, taps: int = 16, memory: int = 32) -> Tensor:
    """Scores test data by linear prediction with Laplace residuals.

    The amplitude is Laplace distributed around a linear function of the last `taps` amplitudes; its scale is a + b
    times the mean residual of the last `memory` samples. The taps are fitted to the training data by least squares,
    a and b by likelihood on a grid. What is scored is the mass in every bin of the mu-law code.

    Returns:
        (N,) nats.
    """

    def windows(audio: Tensor) -> Tensor:
        return torch.nn.functional.pad(audio, (taps, 0))[:, :-1].unfold(1, taps, 1)  # (N, T, taps)

    def residuals(audio: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        predicted = windows(audio) @ weights
        size = (audio - predicted).abs()
        total = torch.nn.functional.pad(size.cumsum(1), (memory + 1, 0))[:, :-1]
        recent = (total[:, memory:] - total[:, :-memory])[:, : audio.shape[1]] / memory
        return predicted, recent, size

    codes = torch.arange(256, dtype=torch.float64) / 255
    edges = mu_law_decode((codes[1:] + codes[:-1]) / 2)
    edges = torch.cat([torch.tensor([-math.inf]), edges, torch.tensor([math.inf])])

    def score(x: Tensor, predicted: Tensor, scale: Tensor) -> Tensor:
        law = torch.distributions.Laplace(predicted, scale)
        low, high = edges[x.long()], edges[x.long() + 1]
        mass = law.cdf(high.clamp(-2, 2)) - law.cdf(low.clamp(-2, 2))
        return -mass.clamp(min=1e-12).log()

    audio = mu_law_decode(training.x.double() / 255)
    fit = windows(audio).flatten(0, 1)
    weights = torch.linalg.lstsq(fit.T @ fit + 1e-6 * torch.eye(taps), fit.T @ audio.flatten()).solution
    some = training.x[::10]
    predicted, recent, _ = residuals(audio[::10], weights)
    grid = [(a, b) for a in (1e-4, 3e-4, 1e-3, 3e-3) for b in (0.3, 0.6, 0.8, 1.0, 1.3)]
    a, b = min(grid, key=lambda ab: score(some, predicted, ab[0] + ab[1] * recent).mean().item())
    predicted, recent, _ = residuals(mu_law_decode(test.x.double() / 255), weights)
    return score(test.x, predicted, a + b * recent).sum(1)


BASELINES = {"order-1 table": order_1_table, "linear prediction, 16 taps": linear_prediction}
