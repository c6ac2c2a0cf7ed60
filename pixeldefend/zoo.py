"""The shipped models, found by name and verified by hash, and the choice of a detector for an image."""

from __future__ import annotations

import copy
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import densities, detectors
from .ambient import torch_defaults
from .classifier import ResNet
from .densities import Density
from .detectors import ConformalDetector, Detector, PhotoDetector, density_of
from .detectors.backends import AUTO
from .detectors.samples import uint8_image
from .devices import check_device
from .errors import CalibrationError, ModelError, NoDetectorError, ParameterError
from .images import Origin, decode_image
from .serialization import load_tensors, sha256_of

WEIGHTS = Path(__file__).parent / "weights"


@functools.cache
def shipped(kind: str) -> list[str]:
    """Returns the names of the shipped models of a kind, "detector" or "classifier"."""
    return sorted(path.stem.removesuffix(f"-{kind}") for path in WEIGHTS.glob(f"*-{kind}.json"))


@functools.cache
def card(name: str, kind: str = "detector") -> dict[str, Any]:
    """Returns the model card of a shipped model: architecture, recipe, metrics, calibration, sha256.

    Args:
        name: A name that `shipped` returns.
        kind: "detector" or "classifier".

    Raises:
        ParameterError: If there is no such model.
        ModelError: If the installation is damaged.
    """
    if name not in shipped(kind):
        raise ParameterError(f"there is no shipped {kind} {name!r}; there are: {', '.join(shipped(kind)) or 'none'}")
    path = WEIGHTS / f"{name}-{kind}.json"
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ModelError(
            f"{path} cannot be read ({error}): the installation is damaged; reinstall pixeldefend"
        ) from None


@torch_defaults()
def recipe_of(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the recipe by which the density of a detector was trained.

    Args:
        name: A shipped detector, or the path of a detector's or a density's file. The recipe of other names is empty.
    """
    if str(name) in shipped("detector"):
        return dict(card(str(name)).get("recipe", {}))
    return dict(load_tensors(name)[1].get("recipe", {})) if Path(name).is_file() else {}


def recipes(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a recipe and those of the densities that its training started from, one after another.

    Args:
        recipe: As `recipe_of` returns it.
    """
    found = [recipe]
    while found[-1].get("recipe_of_start"):
        found.append(found[-1]["recipe_of_start"])
    return found


@torch_defaults()
def load_detector(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    classifier: nn.Module | None = None,
    backend: str | None = None,
) -> Detector | PhotoDetector:
    """Loads a detector.

    Args:
        name: A shipped detector, such as "fashion-mnist", or the path of a file that a detector's `save` wrote.
        device: Where its density runs.
        classifier: The classifier that its statistic uses, if it needs one.
        backend: A key of `pixeldefend.detectors.backends.PRECISION`, which runs the density, or "auto" for the fastest
            on this machine; None for the backend that the detector was saved with.

    Returns:
        The fitted detector; its density is `.density`.

    Raises:
        ModelError: If the file is damaged; the message names it.
        CalibrationError: If the detector is not calibrated for the backend.
        ParameterError: If there is no such shipped detector, backend or device.
        FileNotFoundError: If there is no such file.
    """
    return detectors.load(_verified(name, "detector"), device=device, classifier=classifier, backend=backend)


@torch_defaults()
def load_classifier(name: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> ResNet:
    """Loads a classifier.

    Args:
        name: A shipped classifier, such as "fashion-mnist", or the path of a file that `ResNet.save` wrote.
        device: Where it runs.

    Raises:
        ModelError, ParameterError, FileNotFoundError: As `load_detector` does.
    """
    return ResNet.load(_verified(name, "classifier")).to(check_device(device))


@torch_defaults()
def load_density(name: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Density:
    """Loads a density.

    Args:
        name: A shipped detector, or the path of a file that `Detector.save` or `Density.save` wrote.
        device: Where it runs.

    Raises:
        ModelError, ParameterError, FileNotFoundError: As `load_detector` does.
    """
    path = _verified(name, "detector")
    tensors, meta = load_tensors(path)
    if meta.get("kind") == "detector":
        return density_of(path, tensors, meta).eval().to(check_device(device))
    return densities.load(path).to(check_device(device))


@functools.cache
def cached_detector(name: str, device: str = "cpu", backend: str | None = None) -> Detector | PhotoDetector:
    """Loads a detector once per process.

    Args:
        name: As for `load_detector`.
        device: As for `load_detector`.
        backend: As for `load_detector`.
    """
    return load_detector(name, device=device, backend=backend)


class DetectorSet:
    """A set of detectors by name, and the choice of one for an image.

    The detectors are loaded when they are first needed.

    Args:
        detector: A detector, the name of a shipped one, or the path of a saved one; None for all shipped detectors.
        fpr: The rate of false alarms; None for the detectors' own.
        device: Where densities run.
        classifier: The classifier that the statistic uses, if it needs one.
        backend: A key of `pixeldefend.detectors.backends.PRECISION`, or "auto" for the fastest on this machine, for the
            detectors that have backends; None for the detectors' own.

    Raises:
        CalibrationError: If a detector has too few calibration images for fpr, or is not calibrated for the backend.
        ModelError, ParameterError, FileNotFoundError: As `load_detector` does.
    """

    def __init__(
        self,
        detector: str | os.PathLike[str] | ConformalDetector | None = None,
        *,
        fpr: float | None = None,
        device: str | torch.device = "cpu",
        classifier: nn.Module | None = None,
        backend: str | None = None,
    ) -> None:
        self._given = detector if isinstance(detector, ConformalDetector) else None
        self._options: dict[str, Any] = dict(fpr=fpr, device=str(device), classifier=classifier, backend=backend)
        self._loaded: dict[str, ConformalDetector] = {}
        self._takes_size = functools.lru_cache(4096)(self._takes_size)  # type: ignore[method-assign]
        if self._given is not None:
            self.names = ["custom"]
        else:
            self.names = shipped("detector") if detector is None else [str(detector)]
        if fpr is not None or backend is not None or detector is not None:
            _ = self.detectors  # load now, so that a rate that cannot be promised is refused at once

    @property
    def detectors(self) -> dict[str, ConformalDetector]:
        """Every detector, by name."""
        return {name: self[name] for name in self.names}

    def __getitem__(self, name: str) -> ConformalDetector:
        if name not in self._loaded:
            self._loaded[name] = self._made(name)
        return self._loaded[name]

    def choose(self, image: Any, origin: Origin | None = None) -> str:
        """Returns the name of the detector for an image.

        Of several detectors that take an image, it is one that is calibrated for corruptions if the image's file has a
        lossy format, and one that is not otherwise.

        Args:
            image: One image, as `pixeldefend.images.to_batch` takes it.
            origin: What the file of the image says of itself; None if it is not known. An image that is given as a file
                is asked itself.

        Raises:
            NoDetectorError: If no detector takes the image; the message names the images that they take.
            ImageError: If the image is malformed.
        """
        if isinstance(image, str | os.PathLike | bytes):
            decoded = decode_image(image)
            image, origin = decoded.frames[0], decoded.origin
        x = uint8_image(image)
        lossy = origin is not None and bool(origin.lossy)
        taker = None
        for name in self.names:
            if self[name].accepts(x):
                if bool(self._corruptions(name)) == lossy:
                    return name
                taker = taker or name
        if taker is not None:
            return taker
        colours = "a grey" if x.shape[0] == 1 or bool((x[:1] == x).all()) else "a colour"
        raise self._no_detector(f"{colours} image", *x.shape[1:])

    def check_size(self, height: int, width: int) -> None:
        """Checks whether an image of this size can be chosen for, before it is decoded.

        Args:
            height: The height in pixels.
            width: The width in pixels. EXIF orientation may still turn the image.

        Raises:
            NoDetectorError: If no detector takes an image of this size, grey or in colour.
        """
        if not self._takes_size(height, width):
            raise self._no_detector("an image", height, width)

    def _corruptions(self, name: str) -> list[str]:
        return getattr(self[name], "corruptions_", [])  # a detector that was given may not be fitted yet

    def _takes_size(self, height: int, width: int) -> bool:
        blank = np.broadcast_to(np.uint8(0), (height, width))
        return any(self[name].accepts(image) for name in self.names for image in (blank, blank.T))

    def _no_detector(self, what: str, height: int, width: int) -> NoDetectorError:
        there = ", ".join(f"{name} takes {self[name].takes}" for name in self.names)
        return NoDetectorError(
            f"no detector takes {what} of {height} x {width} (height x width): {there}. Resize the image, or train a "
            "detector of your own"
        )

    def provenance(self, name: str) -> dict[str, Any]:
        """Returns the values that identify a detector, for a log.

        Args:
            name: One of `names`.

        Returns:
            `detector`, `detector_sha256` (of its file, None if it has none) and `precision`.
        """
        return {"detector": name, "detector_sha256": self.sha256(name), "precision": self[name].precision}

    def sha256(self, name: str) -> str | None:
        """Returns the hash of a detector's file, or None if the detector was given as an object."""
        if self._given is not None:
            return None
        return str(card(name)["sha256"]) if name in shipped("detector") else sha256_of(name)

    def _made(self, name: str) -> ConformalDetector:
        fpr, device, classifier, backend = self._options.values()
        made = self._given or cached_detector(name, device)
        try:
            if backend is not None:
                if isinstance(made, Detector):
                    made = made.with_backend(backend)
                elif len(self.names) == 1 and backend != AUTO:  # with several, those that have backends use this one
                    raise ParameterError(f"a {type(made).__name__} cannot run on another backend")
            if classifier is not None:
                made = copy.copy(made)
                made.classifier = classifier
            return made if fpr is None else made.with_fpr(fpr)
        except CalibrationError as error:
            if len(self.names) == 1:
                raise
            raise CalibrationError(f"detector {name}: {error}") from None


@functools.cache
def cached_set(detector: str | None = None) -> DetectorSet:
    """Returns the set of one detector, or of all shipped ones, loaded once per process."""
    return DetectorSet(detector)


def _verified(name: str | os.PathLike[str], kind: str) -> Path:
    """Returns the path of a model file, after checking the hash of a shipped one against its card."""
    path = Path(name)
    if str(name) not in shipped(kind) and (path.suffix == ".safetensors" or path.is_file()):
        return path
    expected = card(str(name), kind)["sha256"]
    path = WEIGHTS / f"{name}-{kind}.safetensors"
    if not path.is_file() or sha256_of(path) != expected:
        state = "does not match its sha256" if path.is_file() else "is missing"
        raise ModelError(f"{path} {state}: the installation is damaged; reinstall pixeldefend")
    return path
