"""Loads detectors and classifiers of third parties: MODULE:OBJECT, TorchScript, torch.export.

pixeldefend benchmark --detector mine:detector --classifier mine.pt2 --data fashion-mnist --out out
"""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ambient import warnings_ignored
from ..data import DataSet
from ..detectors import ClassConditional, ConformalDetector, FunctionDetector
from ..devices import check_device
from ..errors import ModelError, ParameterError
from ..imagenet import imagenet_classifier, is_imagenet_name
from ..zoo import load_classifier, load_detector, shipped
from .baselines import BASELINES
from .cache import Cache
from .photos.baselines import baseline, is_baseline
from .photos.learning import Learning

PROGRAM_SUFFIXES = (".pt", ".pth", ".pt2", ".bin", ".ckpt", ".pkl", ".pickle")


def find_detector(
    name: str,
    classifier: nn.Module,
    data: DataSet | Learning | None,
    *,
    device: str | torch.device = "cpu",
    fpr: float = 0.01,
    cache: Cache | None = None,
) -> Any:
    """Finds a detector by its name.

    Args:
        name: A shipped detector; a key of `BASELINES` or, for photographs, of `PHOTO_BASELINES`, which is fitted to
            data and classifier; the path of a saved detector; or MODULE:OBJECT. The object is a fitted detector, has
            scikit-learn's `score_samples` (higher = more normal), or is a function (higher = more anomalous); it takes
            images (N, C, H, W), float32 in [0, 1], and returns (N,) numbers.
        classifier: The classifier for the baselines.
        data: The data set, or the photographs, that baselines learn from. data.calibration calibrates all detectors
            that are not of this package. None if there are none: only detectors that are calibrated can be found.
        device: Where the detector runs.
        fpr: The false-alarm rate of detectors that are calibrated here.
        cache: Where attacked photographs are kept that baselines learn from.

    Returns:
        A fitted detector.

    Raises:
        ParameterError: If there is nothing of this name, or there are no images to calibrate it.
        MissingExtraError: If a baseline needs a package that is not installed.
        FileNotFoundError: If there is no such file.
    """
    if is_baseline(name) and not isinstance(data, DataSet):
        found = baseline(name, classifier, None if data is None else data.fit, cache)
        return as_detector(found, name, data, fpr=fpr, device=device)
    if name in BASELINES and isinstance(data, DataSet):
        return as_detector(BASELINES[name](classifier, data), name, data, fpr=fpr, device=device)
    if ":" in name and not Path(name).exists():
        found = _imported(name)
        if isinstance(found, ConformalDetector | ClassConditional):
            if isinstance(found, ClassConditional) or not hasattr(found, "calibration_scores_"):
                raise ParameterError(
                    f"{name} must be a fitted detector with one calibration, got {type(found).__name__}"
                )
            return found
        if hasattr(found, "score_samples"):
            return as_detector(_negated(found.score_samples), name, data, fpr=fpr, device=device)
        if callable(found):
            return as_detector(found, name, data, fpr=fpr, device=device)
        raise ParameterError(f"{name} is a {type(found).__name__}, which has no score_samples and cannot be called")
    if name not in shipped("detector") and not Path(name).is_file() and Path(name).suffix != ".safetensors":
        there = ", ".join(shipped("detector"))
        baselines = ", ".join(BASELINES)
        raise ParameterError(f"no detector {name!r}; shipped: {there}; baselines: {baselines}; or MODULE:OBJECT")
    return load_detector(name, device=device)


def find_classifier(name: str, *, device: str | torch.device = "cpu") -> nn.Module:
    """Finds a classifier by its name.

    Args:
        name: A shipped classifier; the name of one of ImageNet, as `pixeldefend.imagenet.imagenet_classifier` takes it;
            the path of a saved one, of a TorchScript (.pt) or of a torch.export (.pt2) file; or MODULE:OBJECT, a torch
            module.
        device: Where the classifier runs.

    Returns:
        A module, (N, C, H, W) in [0, 1] -> (N, classes) logits, in evaluation mode.

    Raises:
        ModelError: If the file is a pickle, which runs whatever code it holds, or no model.
        ParameterError: If there is nothing of this name.
        MissingExtraError: If the weights belong to an extra that is not installed.
        FileNotFoundError: If there is no such file.
    """
    path = Path(name)
    if is_imagenet_name(name):
        return imagenet_classifier(name).to(check_device(device))
    if name not in shipped("classifier") and path.suffix in PROGRAM_SUFFIXES:
        return _Loaded(_from_file(path, device)).eval()
    if ":" in name and not path.exists():
        found = _imported(name)
        if not isinstance(found, nn.Module):
            raise ParameterError(f"{name} is a {type(found).__name__}, not a torch module")
        return found.to(device).eval()
    return load_classifier(name, device=device)


def as_detector(
    function: Callable[[Any], Any],
    name: str,
    data: DataSet | Learning | None,
    *,
    fpr: float = 0.01,
    device: str | torch.device = "cpu",
) -> FunctionDetector:
    """Makes a detector from a function, and calibrates it on data.calibration.

    Args:
        function: (N, C, H, W) float32 in [0, 1] -> (N,), higher = more anomalous. It gets tensors or, if it raises a
            TypeError for them, arrays.
        name: The name of the detector in reports.
        data: The data set, or the photographs, with the calibration images.
        fpr: The false-alarm rate.
        device: The device of the tensors that the function gets.

    Returns:
        A fitted detector without a density.

    Raises:
        ParameterError: If there are no calibration images.
    """
    if data is None:
        raise ParameterError(
            f"{name} must be calibrated on clean photographs that are not attacked: name their folder with --learn"
        )
    detector = FunctionDetector(function, name=name, fpr=fpr, device=str(device))
    return detector.fit(data.calibration.x)


class _Loaded(nn.Module):
    """A loaded program. An exported program has only one mode, which must not be changed."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.inside = [program]  # in a list, where `eval` does not reach it

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inside[0](x)
        return logits

    @property
    def code(self) -> str:
        """The program's code, as torch prints it."""
        return str(getattr(self.inside[0], "code", ""))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:  # for its hash
        return self.inside[0].state_dict(*args, **kwargs)


def _from_file(path: Path, device: str | torch.device) -> nn.Module:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    try:
        with warnings_ignored():
            if any(name.endswith("constants.pkl") for name in names):  # only TorchScript has it
                return torch.jit.load(path, map_location=device).eval()
            if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
                return torch.export.load(os.fspath(path)).module().to(device)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"{path} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    raise ModelError(
        f"{path} is neither a TorchScript nor a torch.export file; pickled models are refused, because loading one "
        "runs the code that it holds: export it with torch.export.save, or name it as MODULE:OBJECT"
    )


def _imported(name: str) -> Any:
    """Imports MODULE:OBJECT and returns the object; searches the current folder first, as `python -m` does."""
    module, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ParameterError(f"{name} cannot be imported: {error}") from None
    return found


def _negated(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def anomaly_scores(x: Any) -> Any:
        if isinstance(x, Tensor):
            x = x.detach().cpu().numpy()
        return -np.asarray(function(x))

    anomaly_scores.__module__ = getattr(function, "__module__", None) or type(function).__module__
    return anomaly_scores
