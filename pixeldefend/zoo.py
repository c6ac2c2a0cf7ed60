"""The shipped models, found by name and verified by hash."""

from __future__ import annotations

import copy
import functools
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import densities
from .classifier import ResNet
from .densities import Density
from .detectors import Detector, density_of
from .detectors.backends import PRECISION
from .errors import NoDetectorError, ParameterError, PixelDefendError
from .serialization import load_tensors, sha256_of

WEIGHTS = Path(__file__).parent / "weights"


@functools.cache
def shipped(kind: str) -> list[str]:
    """kind: "detector" or "classifier". Returns the names of the shipped models of that kind."""
    return sorted(path.stem.removesuffix(f"-{kind}") for path in WEIGHTS.glob(f"*-{kind}.json"))


@functools.cache
def card(name: str, kind: str = "detector") -> dict[str, Any]:
    """Returns the model card of a shipped model: architecture, recipe, metrics, calibration, sha256."""
    if name not in shipped(kind):
        raise ParameterError(f"there is no shipped {kind} {name!r}; there are: {', '.join(shipped(kind)) or 'none'}")
    path = WEIGHTS / f"{name}-{kind}.json"
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ParameterError(
            f"{path} cannot be read ({error}): the installation is damaged; reinstall pixeldefend"
        ) from None


def recipe_of(name: str) -> dict[str, Any]:
    """Returns how the density of a detector was trained, as far as it is written down.

    Args:
        name: A shipped detector or the path of a saved model; any other name has no recipe.

    Returns:
        Plain JSON values, {} if nothing is known.
    """
    if name in shipped("detector"):
        return dict(card(name).get("recipe", {}))
    return dict(load_tensors(name)[1].get("recipe", {})) if Path(name).is_file() else {}


def load_detector(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    classifier: nn.Module | None = None,
    backend: str | None = None,
) -> Detector:
    """name: of a shipped detector ("fashion-mnist"), or the path of a file that `Detector.save` wrote. classifier: the
    one that the detector's score asks, if it does. backend: a key of `pixeldefend.detectors.backends.PRECISION`, which runs the
    density; by default what the detector was saved with.

    Returns the fitted `Detector`; its model is `.density`. Raises ParameterError, naming the file, if the file is damaged;
    ValueError or FileNotFoundError if there is no such detector.
    """
    return Detector.load(_verified(name, "detector"), device=device, classifier=classifier, backend=backend)


def load_classifier(name: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> ResNet:
    """name: of a shipped classifier ("fashion-mnist"), or the path of a file that `ResNet.save` wrote. Raises as
    `load_detector` does."""
    return ResNet.load(_verified(name, "classifier")).to(device)


def load_density(name: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Density:
    """name: of a shipped detector, or the path of a file that `Detector.save` or `Density.save` wrote. Returns its
    density. Raises as `load_detector` does."""
    path = _verified(name, "detector")
    tensors, meta = load_tensors(path)
    if meta.get("kind") == "detector":
        return density_of(path, tensors, meta).eval().to(device)
    return densities.load(path).to(device)


@functools.cache
def cached_detector(name: str, device: str = "cpu", backend: str | None = None) -> Detector:
    """`load_detector`, once a process."""
    return load_detector(name, device=device, backend=backend)


def detector_sha256(name: str | os.PathLike[str]) -> str | None:
    """name: of a shipped detector, or the path of a saved one. Returns its file's sha256; None for another name."""
    if str(name) in shipped("detector"):
        return str(card(str(name))["sha256"])
    return sha256_of(name) if Path(name).is_file() else None


def detector_for(image_shape: tuple[int, ...]) -> str:
    """image_shape: (C, H, W). Returns the name of the shipped detector for it, or else for H and W alone (an RGB file
    may well hold a grey image). Raises ParameterError, listing those that exist, if there is none."""
    shapes = {name: tuple(card(name)["density"]["event_shape"]) for name in shipped("detector")}
    for same in (slice(0, 3), slice(1, 3)):
        for name, shape in shapes.items():
            if shape[same] == tuple(image_shape)[same]:
                return name
    existing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    raise ParameterError(
        f"no shipped detector models images of shape (C, H, W) = {tuple(image_shape)}; there are: {existing}. "
        "Resize the image, or train a detector of your own and pass detector="
    )


class DetectorSet:
    """Stands in until the branch `detectors` is merged, whose class wins."""

    def __init__(
        self,
        detector: Any = None,
        *,
        fpr: float | None = None,
        device: str = "cpu",
        classifier: nn.Module | None = None,
        backend: str | None = None,
    ) -> None:
        fixed = None if detector is None else "custom" if isinstance(detector, Detector) else str(detector)
        self.detectors: dict[str, Any] = {}
        for name in shipped("detector") if fixed is None else [fixed]:
            made = detector if isinstance(detector, Detector) else cached_detector(name, device)
            if backend is not None:
                made = made.with_backend(backend)
            if classifier is not None:
                made = copy.copy(made)
                made.classifier = classifier
            try:
                self.detectors[name] = made if fpr is None else made.with_fpr(fpr)
            except PixelDefendError as error:
                if fixed is not None:
                    raise  # else say whose rate it is
                raise ParameterError(f"detector {name}: {error}") from None

    def choose(self, image: Any) -> str:
        grey = image.ndim == 2 or bool((image[..., :1] == image).all())
        shapes = {name: made.density.event_shape for name, made in self.detectors.items()}
        for name, shape in shapes.items():
            if shape == (1 if image.ndim == 2 else 3, *image.shape[:2]):
                return name
        for name, shape in shapes.items():
            if shape is None or (len(shape) == 3 and shape[1:] == image.shape[:2] and (shape[0] == 3 or grey)):
                return name
        raise NoDetectorError(f"no detector takes an image of shape {image.shape}; there are: {shapes}")

    def provenance(self, name: str) -> dict[str, Any]:
        precision = PRECISION[self.detectors[name].backend]
        return {"detector": name, "detector_sha256": detector_sha256(name), "precision": precision}


def _verified(name: str | os.PathLike[str], kind: str) -> Path:
    """Returns the path of a model file; the bytes of a shipped one match its card."""
    path = Path(name)
    if str(name) not in shipped(kind) and (path.suffix == ".safetensors" or path.is_file()):
        return path
    expected = card(str(name), kind)["sha256"]
    path = WEIGHTS / f"{name}-{kind}.safetensors"
    if not path.is_file() or sha256_of(path) != expected:
        state = "does not match its sha256" if path.is_file() else "is missing"
        raise ParameterError(f"{path} {state}: the installation is damaged; reinstall pixeldefend")
    return path
