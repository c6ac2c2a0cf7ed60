"""Descent of a weighted sum of margin and anomaly score."""

from __future__ import annotations

from torch import Tensor

from .base import DetectorAwarePGD


class JointPGD(DetectorAwarePGD):
    """An attack that descends margin + weight x anomaly score, with a weight for each image.

    The weight grows while the image is misclassified, and shrinks while it is not.

    Reference:
        Carlini & Wagner 2017, arXiv:1705.07263, search for their weight in the same way.
    """

    def direction(self, classify: Tensor, detect: Tensor, misclassified: Tensor, weight: Tensor) -> Tensor:
        return classify + weight[:, None] * detect
