"""Attacks of foolbox on classifier and detector at once, by an attacker who knows both.

    attack = JointPGD(detector, steps=100)
    criterion = Misclassification(labels) & NotFlagged(detector)
    _, images, evaded = attack(model, x, criterion, epsilons=8 / 255)

In every step classifier and detector see the image rounded to 8 bits. The gradient passes straight through the rounding
(Athalye et al. 2018).
"""

from .base import DetectorAwarePGD
from .joint import JointPGD
from .orthogonal import OrthogonalPGD
from .selective import SelectivePGD
from .spsa import SPSA

__all__ = ["SPSA", "DetectorAwarePGD", "JointPGD", "OrthogonalPGD", "SelectivePGD"]
