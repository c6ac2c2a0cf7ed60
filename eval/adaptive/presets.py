"""Named attacks on classifier, detector and purifier. To add one, add a line to `ADAPTIVE`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ...densities import Autoregressive
from ...detectors import FunctionDetector
from ...devices import device_of
from ...errors import ParameterError

WITHOUT_GRADIENT = (None, "SPSA")  # kinds that need no gradient of the anomaly score


@dataclass(frozen=True)
class AdaptiveAttack:
    """An attack with all of its settings, as plain values.

    Args:
        kind: A class in `pixeldefend.attacks`; None for PGD on the classifier alone, purified or not.
        purified: Whether the purified image must be misclassified, instead of the image itself.
        detected: Whether the attack evades only if the image itself is not flagged.
        surrogate: Whether the attack is made for another classifier and detector than those that judge it.
        expensive: Whether the attack takes long, and is therefore made for fewer images.
        norm: "linf", or "l2", whose budget is the root mean square change of a sub-pixel (rounding may add a little).
        settings: Further keyword arguments of the class, plain JSON values.
    """

    kind: str | None
    purified: bool = False
    detected: bool = True
    surrogate: bool = False
    expensive: bool = False
    norm: str = "linf"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def against(self) -> str:
        """The models that are attacked, in words."""
        return " + ".join(["purifier"] * self.purified + ["classifier"] + ["detector"] * self.detected)

    @property
    def blind(self) -> bool:
        """Whether the attack knows nothing of the detector that judges it."""
        return self.kind is None and self.detected

    def as_json(self) -> dict[str, Any]:
        """Returns all settings as plain JSON values, which identify the attack."""
        return asdict(self)


BLIND = "blind-pgd"  # the row that others are compared with

ADAPTIVE: dict[str, AdaptiveAttack] = {
    # it does not know the detector
    BLIND: AdaptiveAttack(None),
    "joint-pgd": AdaptiveAttack("JointPGD"),
    "selective-pgd": AdaptiveAttack("SelectivePGD"),
    "orthogonal-pgd": AdaptiveAttack("OrthogonalPGD"),
    "joint-pgd-l2": AdaptiveAttack("JointPGD", norm="l2"),
    # without gradients
    "spsa": AdaptiveAttack("SPSA", expensive=True),
    # by an attacker who only has another classifier and another detector of the same kind
    "transfer-pgd": AdaptiveAttack("JointPGD", surrogate=True, expensive=True),
    # through the purifier, whose gradient is taken to be the identity (BPDA, Athalye et al. 2018)
    "bpda-pgd": AdaptiveAttack(None, purified=True, detected=False, expensive=True),
    "bpda-joint-pgd": AdaptiveAttack("JointPGD", purified=True, expensive=True),
}


def resolve_attacks(attacks: Iterable[str] | None, detector: Any, x: Tensor, surrogate: Any = None) -> list[str]:
    """Returns the names of the attacks to make.

    Args:
        attacks: Keys of `ADAPTIVE`; None for all that can be made.
        detector: A fitted detector.
        x: (1, C, H, W) uint8, an image on which the gradient is tried.
        surrogate: A classifier and a detector, for attacks by transfer.

    Returns:
        Keys of `ADAPTIVE`.

    Raises:
        ParameterError: If an attack is unknown, or needs a surrogate, a density that purifies or a gradient that is
            missing.
    """
    purifies = isinstance(getattr(detector, "density", None), Autoregressive)
    if attacks is None:
        gradient = {False: _has_gradient(detector, x), True: surrogate is not None and _has_gradient(surrogate[1], x)}
        possible = {name: a for name, a in ADAPTIVE.items() if purifies or not a.purified}
        return [name for name, a in possible.items() if gradient[a.surrogate] or a.kind in WITHOUT_GRADIENT]
    names = list(attacks)
    for name in names:
        if name not in ADAPTIVE:
            raise ParameterError(f"unknown attack {name!r}; there are: {', '.join(ADAPTIVE)}")
        if ADAPTIVE[name].surrogate and surrogate is None:
            raise ParameterError(f"{name} needs a surrogate classifier and detector")
        if ADAPTIVE[name].purified and not purifies:
            raise ParameterError(f"{name} needs a detector whose density purifies images")
    for attacked, what in ((detector, "detector"), (surrogate[1] if surrogate else None, "surrogate")):
        steep = [n for n in names if ADAPTIVE[n].kind not in WITHOUT_GRADIENT]
        steep = [n for n in steep if ADAPTIVE[n].surrogate == (what == "surrogate")]
        if steep and not _has_gradient(attacked, x):
            raise ParameterError(
                f"the anomaly score of the {what} has no gradient for {', '.join(steep)} to follow: use spsa"
            )
    return names


def _has_gradient(detector: Any, x: Tensor) -> bool:
    density = getattr(detector, "density", None)
    x = x[:1] / 255
    x = (x if density is None else x.to(device_of(density), density.dtype)).requires_grad_()
    try:
        return bool(detector.anomaly_scores(x).requires_grad)
    except ParameterError:
        if isinstance(detector, FunctionDetector):  # of a function that takes no tensors
            return False
        raise
