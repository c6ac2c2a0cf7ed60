"""Attacked images, made by foolbox: `craft(classifier, images, labels, "pgd-8")`. `ATTACKS` names the presets.

Installed as `pixeldefend.attacks`. foolbox's own `is_adversarial` means "the classifier was fooled"; elsewhere in this
package the words mean "flagged by the detector".
"""

from .aware import SPSA, JointPGD, OrthogonalPGD, SelectivePGD, Undetected
from .craft import Attacked, craft
from .presets import ATTACKS, Attack

__all__ = [
    "ATTACKS",
    "SPSA",
    "Attack",
    "Attacked",
    "JointPGD",
    "OrthogonalPGD",
    "SelectivePGD",
    "Undetected",
    "craft",
]
