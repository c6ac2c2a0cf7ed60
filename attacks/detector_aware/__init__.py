"""Attacks on classifier and detector at once, by an attacker who knows both. Each is a foolbox attack.

    attack = JointPGD(detector, steps=100)
    criterion = Misclassification(labels) & NotFlagged(detector)
    _, images, evaded = attack(model, x, criterion, epsilons=8 / 255)

What counts is the image rounded to 8 bits: classifier and detector see it in every step, and the gradient passes
straight through the rounding (Athalye et al. 2018).
"""

from .base import DetectorAwarePGD
from .joint import JointPGD
from .orthogonal import OrthogonalPGD
from .selective import SelectivePGD
from .spsa import SPSA

__all__ = ["SPSA", "DetectorAwarePGD", "JointPGD", "OrthogonalPGD", "SelectivePGD"]
