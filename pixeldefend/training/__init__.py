"""Training of densities and classifiers (needs the extra `train`), and calibration of detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import names_from

if TYPE_CHECKING:
    from .build import build_for as build_for
    from .loop import train as train
    from .models import Trained as Trained
    from .models import train_classifier as train_classifier
    from .models import train_density as train_density
    from .tasks import Classification as Classification
    from .tasks import MaximumLikelihood as MaximumLikelihood

_MODULES = {
    "Classification": "tasks",
    "MaximumLikelihood": "tasks",
    "Trained": "models",
    "build_for": "build",
    "train": "loop",
    "train_classifier": "models",
    "train_density": "models",
}
__all__ = list(_MODULES)
__getattr__ = names_from(__name__, _MODULES, extra="train")  # calibration needs no Lightning
