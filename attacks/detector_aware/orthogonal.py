"""Descent of the margin or the anomaly score, without changing the other."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import DetectorAwarePGD


class OrthogonalPGD(DetectorAwarePGD):
    """An attack like `SelectivePGD` whose steps change the other number little.

    The component of each gradient along the other one is removed. To first order the steps then leave the other number
    unchanged, apart from what taking signs within an Linf budget adds.

    Reference:
        Bryniarski et al. 2021, arXiv:2106.15023.
    """

    def direction(self, classify: Tensor, detect: Tensor, misclassified: Tensor, weight: Tensor) -> Tensor:
        common = (classify * detect).sum(1, keepdim=True)
        return torch.where(misclassified[:, None], detect - common * classify, classify - common * detect)
