"""Statistics of the randomised probability integral transform (PIT), which is uniform under the density."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .evidence import Evidence


def pit_uniformity(evidence: Evidence) -> Tensor:
    """The Kolmogorov-Smirnov distance between the randomised PIT and the uniform distribution, times sqrt(sites).

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), at least 0.
    """
    u = evidence.pit.flatten(1).sort(1).values
    d = u.shape[1]
    steps = torch.arange(d, device=u.device, dtype=u.dtype) / d
    return torch.maximum((u - steps).amax(1), (steps + 1 / d - u).amax(1)) * math.sqrt(d)


def pit_tails(evidence: Evidence) -> Tensor:
    """The share of sites whose randomised PIT lies below 0.01 or above 0.99.

    It is 0.02 under the model, and more if the image has values that are nearly impossible under the model.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in [0, 1].
    """
    return ((evidence.pit - 0.5).abs() > 0.49).flatten(1).to(evidence.x.dtype).mean(1)


class PitLag:
    """Minus the correlation between the PIT's normal residuals of sites at a fixed lag.

    Under the model there is no correlation. Real models miss some structure of clean images, so that the residuals of
    clean images are faintly correlated; the residuals of noise are not.

    Args:
        channels: The lag in channels, at least 0.
        rows: The lag in rows, at least 0.
        columns: The lag in columns. If it is negative, the earlier site lies to the right, in a row above.

    Reference:
        Rosenblatt, Remarks on a multivariate transformation, 1952.
    """

    def __init__(self, *, channels: int = 0, rows: int = 0, columns: int = 0) -> None:
        self.lags = (channels, rows, columns)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Computes the statistic: (N,) in [-1, 1], 0 if the image is smaller than the lag."""
        z = evidence.residuals if evidence.x.ndim == 4 else evidence.residuals.flatten(1)[:, None, None]
        if any(size <= abs(lag) for size, lag in zip(z.shape[1:], self.lags, strict=True)):
            return z.new_zeros(len(z))
        a = b = z
        for axis, lag in enumerate(self.lags, start=1):
            size = z.shape[axis] - abs(lag)
            a, b = a.narrow(axis, max(lag, 0), size), b.narrow(axis, max(-lag, 0), size)
        a, b = a.flatten(1), b.flatten(1)
        return -F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)
