"""Attacked images, made by foolbox: `craft(classifier, images, labels, "pgd-8")`. `ATTACKS` names the presets.

Installed as `pixeldefend.attacks`. foolbox's own `is_adversarial` means "the classifier was fooled"; elsewhere in this
package the words mean "flagged by the detector".
"""

from .craft import Attacked, craft
from .detector_aware import SPSA, JointPGD, NotFlagged, OrthogonalPGD, SelectivePGD
from .presets import ATTACKS, Attack

__all__ = [
    "ATTACKS",
    "SPSA",
    "Attack",
    "Attacked",
    "JointPGD",
    "NotFlagged",
    "OrthogonalPGD",
    "SelectivePGD",
    "craft",
]
