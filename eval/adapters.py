"""Other people's detectors and classifiers on the same footing: MODULE:OBJECT, TorchScript, torch.export.

pixeldefend benchmark --detector mine:detector --classifier mine.pt2 --data fashion-mnist --out out
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import DataSet
from ..densities import Density
from ..detectors import Detector
from ..errors import ParameterError
from ..scores import Evidence
from ..serialization import load_tensors
from ..zoo import card, load_classifier, load_detector, shipped
from .baselines import BASELINES


def find_detector(
    name: str, classifier: nn.Module, data: DataSet, *, device: str | torch.device = "cpu", fpr: float = 0.01
) -> Detector:
    """name: of a shipped detector; of one of `BASELINES`, which is fitted to data and classifier; the path of a saved
    detector; or MODULE:OBJECT: an object with scikit-learn's `score_samples` (higher = more normal), or a function
    (higher = more suspicious), of images (N, C, H, W), float32 in [0, 1], that returns (N,) numbers. What is not of
    this package is calibrated on data.calibration. Raises ParameterError or FileNotFoundError if there is no such thing."""
    if name in BASELINES:
        return as_detector(BASELINES[name](classifier, data), name, data, fpr=fpr, device=device)
    if ":" in name and not Path(name).exists():
        found = _imported(name)
        if isinstance(found, Detector):
            return found
        if hasattr(found, "score_samples"):
            return as_detector(_minus(found.score_samples), name, data, fpr=fpr, device=device)
        if callable(found):
            return as_detector(found, name, data, fpr=fpr, device=device)
        raise ParameterError(f"{name} is a {type(found).__name__}, which has no score_samples and cannot be called")
    try:
        return load_detector(name, device=device)
    except ValueError as error:
        if "there is no shipped" in str(error):
            raise ParameterError(f"{error}; baselines: {', '.join(BASELINES)}; or MODULE:OBJECT") from None
        raise


def recipe_of(name: str) -> dict[str, Any]:
    """name: as `find_detector` takes it. Returns how the density of a shipped or saved detector was trained, as far as
    it is written down; {} for others."""
    if name in shipped("detector"):
        return dict(card(name).get("recipe", {}))
    return dict(load_tensors(name)[1].get("recipe", {})) if Path(name).is_file() else {}


def find_classifier(name: str, *, device: str | torch.device = "cpu") -> nn.Module:
    """name: of a shipped classifier; the path of a saved one, of a TorchScript (.pt) or torch.export (.pt2) file; or
    MODULE:OBJECT, a torch module. It maps (N, C, H, W) in [0, 1] to logits. Raises ParameterError for pickles, which run
    whatever code they hold, and for what is none of these."""
    path = Path(name)
    if name not in shipped("classifier") and path.suffix in (".pt", ".pth", ".pt2", ".bin", ".ckpt", ".pkl", ".pickle"):
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
    data: DataSet,
    *,
    fpr: float = 0.01,
    device: str | torch.device = "cpu",
) -> Detector:
    """function: (N, C, H, W) float32 in [0, 1] -> (N,), higher = more suspicious; a tensor to a tensor with a gradient
    if attacks are to use it, else an array to an array. Returns a `Detector` whose score it is, calibrated on
    data.calibration; it has no surprisal, and its density gives all images the same 8 bits/dim."""
    density = Uniform(data.calibration.shape).to(device)
    detector = Detector(density, statistic=name, fpr=fpr)
    detector.score_ = _Score(function, name)
    detector.n_features_in_ = math.prod(data.calibration.shape)
    detector.corruptions_ = []
    detector.calibration_index_ = np.arange(len(data.calibration))
    x = data.calibration.x
    scores = [detector.score_(Evidence(density, part.to(device) / 255)) for part in x.split(64)]
    detector.calibrations_ = {"float32": torch.cat(scores).detach().double().cpu().numpy()}
    return detector._set_threshold()


class Uniform(Density):
    """Gives every 8-bit image the same probability: what a detector has that has no density. Logarithms are natural."""

    def log_prob(self, x: Tensor) -> Tensor:
        self.check(x)
        return -math.log(256) * x[0].numel() * torch.ones(len(x), device=x.device) + 0 * x.flatten(1).sum(1)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        assert self.event_shape is not None
        return torch.randint(0, 256, (n, *self.event_shape), generator=generator) / 255


class _Score:
    """A function of images as a score."""

    def __init__(self, function: Callable[[Any], Any], name: str) -> None:
        self.function, self.name = function, name

    def __call__(self, evidence: Evidence) -> Tensor:
        x = evidence.x
        try:
            found = self.function(x)
        except TypeError:
            if x.requires_grad:
                raise ParameterError(f"{self.name} takes no tensors: attacks have no gradient; take spsa") from None
            found = self.function(x.detach().cpu().numpy())
        scores = torch.as_tensor(found).to(x.device)
        if scores.shape != x.shape[:1] or not torch.isfinite(scores).all():
            raise ParameterError(f"{self.name} must return {len(x)} finite numbers, got {tuple(scores.shape)}")
        return scores


class _Loaded(nn.Module):
    """A loaded program, whose mode is not changed: exported ones have but one."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.inside = [program]  # in a list, where `eval` does not reach it

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inside[0](x)
        return logits

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:  # for its hash
        return self.inside[0].state_dict(*args, **kwargs)


def _from_file(path: Path, device: str | torch.device) -> nn.Module:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if any(name.endswith("constants.pkl") for name in names):  # only TorchScript has it
                return torch.jit.load(path, map_location=device).eval()
            if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
                return torch.export.load(os.fspath(path)).module().to(device)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ParameterError(f"{path} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    raise ParameterError(
        f"{path} is no TorchScript and no torch.export file; pickled models are refused, since loading one runs "
        "whatever code it holds: export it by torch.export.save, or name it as MODULE:OBJECT"
    )


def _imported(name: str) -> Any:
    """MODULE:OBJECT -> the object. The current folder is searched first, as by `python -m`."""
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


def _minus(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def anomaly_scores(x: Any) -> Any:
        if isinstance(x, Tensor):
            x = x.detach().cpu().numpy()
        return -np.asarray(function(x))

    return anomaly_scores
