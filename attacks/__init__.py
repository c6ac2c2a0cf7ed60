"""Attacked images, made by foolbox: `craft(classifier, images, labels, "pgd-8")`.

`ATTACKS` lists the presets by name. Everything else needs the extra `attacks` when it is used. foolbox's own
`is_adversarial` means "misclassified"; everywhere else in this package it means "flagged by the detector".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .attack import Attack
from .craft import Attacked, craft
from .presets import ATTACKS

if TYPE_CHECKING:
    from .criteria import NotFlagged
    from .detector_aware import SPSA, DetectorAwarePGD, JointPGD, OrthogonalPGD, SelectivePGD

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


def __getattr__(name: str) -> Any:
    # subclasses of foolbox's classes are imported when they are needed, since foolbox is an extra
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import criteria, detector_aware

    return criteria.NotFlagged if name == "NotFlagged" else getattr(detector_aware, name)
