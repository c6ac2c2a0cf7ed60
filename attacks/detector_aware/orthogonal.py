"""Descent of the margin or the anomaly score, without changing the other."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import DetectorAwarePGD


class OrthogonalPGD(DetectorAwarePGD):
    """An attack like `SelectivePGD` whose steps leave the other number unchanged to first order.

    The component of each gradient along the other one is removed.

    Reference:
        Bryniarski et al. 2021, arXiv:2106.15023.
    """

    def direction(self, classify: Tensor, detect: Tensor, misclassified: Tensor, weight: Tensor) -> Tensor:
        common = (classify * detect).sum(1, keepdim=True)
        return torch.where(misclassified[:, None], detect - common * classify, classify - common * detect)
