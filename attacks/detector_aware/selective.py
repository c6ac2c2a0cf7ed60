"""Descent of either the margin or the anomaly score."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import DetectorAwarePGD


class SelectivePGD(DetectorAwarePGD):
    """An attack that descends the margin until the image is misclassified, and then the anomaly score.

    Reference:
        Bryniarski et al. 2021, arXiv:2106.15023.
    """

    def direction(self, classify: Tensor, detect: Tensor, misclassified: Tensor, weight: Tensor) -> Tensor:
        return torch.where(misclassified[:, None], detect, classify)
