"""Reads saved detectors, of one image at a time or of photographs."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..ambient import torch_defaults
from ..errors import ModelError, ParameterError
from ..serialization import load_tensors
from .backends import AUTO
from .detector import Detector
from .photo import PhotoDetector

SAVED: dict[str, type[Detector] | type[PhotoDetector]] = {kind.__name__: kind for kind in (Detector, PhotoDetector)}


@torch_defaults()
def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu", **given: Any) -> Detector | PhotoDetector:
    """Reads a detector that `save` wrote.

    Args:
        path: The file.
        device: Where the density runs.
        **given: Parameters that the file does not hold, or that replace those in the file; None for the file's own.
            The backend "auto" is the fastest on this machine.

    Returns:
        The fitted detector.

    Raises:
        ModelError: If the file is damaged or holds something else.
        CalibrationError: If the file holds no calibration for the parameters.
        ParameterError: If this kind of detector has no such parameter, the calibration depends on it, or the device
            cannot be used.
        FileNotFoundError: If the file is missing.
    """
    _, meta = load_tensors(path)
    kind = meta.get("class", "Detector") if meta.get("kind") == "detector" else meta.get("kind")
    if kind not in SAVED:
        known = meta.get("kind") == "detector"
        raise ModelError(f"{path} holds a {kind}" + (f": read it with {kind}.load" if known else ", not a detector"))
    given = {name: value for name, value in given.items() if value is not None}
    automatic = given.get("backend") == AUTO
    if automatic:
        given.pop("backend")
    unknown = given.keys() - SAVED[kind]().get_params(deep=False).keys()
    if unknown:
        raise ParameterError(f"a {kind} has no {' and no '.join(sorted(unknown))}: leave it out")
    detector = SAVED[kind].load(path, device=device, **given)
    return detector.with_backend(AUTO) if automatic and isinstance(detector, Detector) else detector
