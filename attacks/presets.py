"""Named attacks: which foolbox attack, with which settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attack:
    """make: returns the foolbox attack. eps: its budget, in units of [0, 1], or None for attacks that look for the
    least perturbation. control: not meant to fool the classifier; every image counts, fooled or not."""

    make: Callable[[], Any]
    eps: float | None
    control: bool = False


def _foolbox(name: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        import foolbox

        return getattr(foolbox.attacks, name)(**settings)

    return make


def _carlini_wagner(stepsize: float) -> Callable[[], Any]:
    settings = {"binary_search_steps": 4, "steps": 150, "initial_const": 1.0, "confidence": 0.2}
    return _foolbox("L2CarliniWagnerAttack", stepsize=stepsize, **settings)


ATTACKS: dict[str, Attack] = {
    # the control: if it is flagged, that says nothing about attacks
    "noise-8": Attack(_foolbox("LinfAdditiveUniformNoiseAttack"), 8 / 255, control=True),
    # one step along the sign of the gradient (Goodfellow et al. 2015)
    **{f"fgsm-{k}": Attack(_foolbox("LinfFastGradientAttack"), k / 255) for k in (1, 2, 4, 8, 25)},
    # the same in 10 small steps (Kurakin et al. 2017)
    **{f"bim-{k}": Attack(_foolbox("LinfBasicIterativeAttack", steps=10), k / 255) for k in (1, 2, 4, 8, 25)},
    # and from a random start, in 40 (Madry et al. 2018)
    **{f"pgd-{k}": Attack(_foolbox("LinfProjectedGradientDescentAttack", steps=40), k / 255) for k in (1, 2, 4, 8, 25)},
    **{
        f"pgd-l2-{eps}": Attack(_foolbox("L2ProjectedGradientDescentAttack", steps=40), eps) for eps in (0.25, 0.5, 1.0)
    },
    # the fewest pixels: by gradients (Pintor et al. 2021), and black or white at random without any
    "fmn-l0": Attack(_foolbox("L0FMNAttack", steps=100), None),
    "salt-and-pepper": Attack(_foolbox("SaltAndPepperNoiseAttack", steps=300), None),
    # the nearest boundary of a linearised classifier, again and again (Moosavi-Dezfooli et al. 2016)
    "deepfool-linf": Attack(_foolbox("LinfDeepFoolAttack", steps=50), None),
    "deepfool-l2": Attack(_foolbox("L2DeepFoolAttack", steps=50), None),
    # the least L2 perturbation by optimisation (Carlini & Wagner 2017); without a margin in the logits, `confidence`,
    # most would not survive being rounded to 8 bits
    "cw-l2": Attack(_carlini_wagner(stepsize=0.05), None),
    # with foolbox's own step size it cannot move, in so few steps, pixels that are exactly 0 or 255: a larger change,
    # but of textured pixels only
    "cw-l2-slow": Attack(_carlini_wagner(stepsize=0.01), None),
}
