"""Attacks that know the detector."""

from .attacks import SPSA, DetectorAwarePGD, JointPGD, NotFlagged, OrthogonalPGD, SelectivePGD

__all__ = ["SPSA", "DetectorAwarePGD", "JointPGD", "NotFlagged", "OrthogonalPGD", "SelectivePGD"]
