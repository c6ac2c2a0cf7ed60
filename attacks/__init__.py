"""Attacked images, made by foolbox: `craft(classifier, images, labels, "pgd-8")`.

`ATTACKS` lists the presets by name. Everything else needs the extra `attacks` when it is used. foolbox's own
`is_adversarial` means "misclassified"; everywhere else in this package it means "flagged by the detector".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import names_from
from .attack import Attack
from .craft import Attacked, craft
from .presets import ATTACKS

if TYPE_CHECKING:
    from .criteria import NotFlagged as NotFlagged
    from .detector_aware import SPSA as SPSA
    from .detector_aware import DetectorAwarePGD as DetectorAwarePGD
    from .detector_aware import JointPGD as JointPGD
    from .detector_aware import OrthogonalPGD as OrthogonalPGD
    from .detector_aware import SelectivePGD as SelectivePGD

# these are subclasses of foolbox's classes
_MODULES = {
    "SPSA": "detector_aware",
    "DetectorAwarePGD": "detector_aware",
    "JointPGD": "detector_aware",
    "NotFlagged": "criteria",
    "OrthogonalPGD": "detector_aware",
    "SelectivePGD": "detector_aware",
}
__all__ = [
    "ATTACKS",
    "SPSA",
    "Attack",
    "Attacked",
    "DetectorAwarePGD",
    "JointPGD",
    "NotFlagged",
    "OrthogonalPGD",
    "SelectivePGD",
    "craft",
]
__getattr__ = names_from(__name__, _MODULES, extra="attacks")
