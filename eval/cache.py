"""A cache of results in a folder, from which an interrupted run continues where it stopped."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Images
from ..errors import PixelDefendError
from ..serialization import load_tensors, save_tensors


class Cache:
    """A cache of tensors in a folder, where each file is named by the hash of its key.

    Args:
        folder: The folder of the files; None to keep nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def __call__(self, key: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Returns the tensors for a key, from the cache or newly made.

        Args:
            key: Plain JSON values: everything that the outcome depends on.
            make: A function that makes the tensors. It is called unless there is a readable file with the same key.

        Returns:
            Tensors by name.
        """
        if self.folder is None:
            return make()
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        if path.is_file():
            try:
                tensors, meta = load_tensors(path)
                if meta.get("key") == json.loads(text):
                    return tensors
            except PixelDefendError:
                pass  # an interrupted run left the file damaged
        tensors = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, {"kind": "cache", "key": key})
        return tensors


def digest(module: nn.Module | None) -> str:
    """Returns the sha256 of a module's class name, weights and buffers."""
    sha = hashlib.sha256(type(module).__name__.encode())
    for name, tensor in module.state_dict().items() if module is not None else ():
        sha.update(f"{name} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def module_key(module: nn.Module) -> dict[str, str]:
    """Returns what the outputs of a module depend on: its weights, its structure and the code of its classes."""
    sha = hashlib.sha256()
    for kind in dict.fromkeys(type(part) for part in module.modules()):
        sha.update(_code_of(kind))
    # TorchScript and exported programs carry their code themselves
    sha.update(str(getattr(module, "code", "")).encode())
    return {"weights": digest(module), "structure": _sha256(repr(module)), "code": sha.hexdigest()}


def detector_key(detector: Any) -> dict[str, Any]:
    """Returns everything that the anomaly scores of a fitted detector depend on."""
    key: dict[str, Any] = {"kind": type(detector).__name__, "statistic": statistic_of(detector)}
    key["calibration_scores"] = scores_digest(detector)
    key["fpr"], key["confidence"] = detector.fpr, getattr(detector, "confidence", None)
    key["precision"], key["aggregate"] = getattr(detector, "precision", None), getattr(detector, "aggregate", None)
    if (preprocessor := getattr(detector, "preprocessor", None)) is not None:
        key["preprocessor"] = preprocessor.config()
    if (density := getattr(detector, "density", None)) is not None:
        key["density"] = module_key(density)
        key["config"] = density.config
    if (classifier := getattr(detector, "classifier", None)) is not None:
        key["classifier"] = module_key(classifier)
    if (function := getattr(detector, "function", None)) is not None:
        key["function"] = hashlib.sha256(_code_of(function)).hexdigest()
    return key


def images_key(images: Images) -> dict[str, Any]:
    """Returns the hashes that identify labelled images."""
    labels = None if images.y is None else hashlib.sha256(images.y.numpy().tobytes()).hexdigest()
    return {"images": images.digest(), "labels": labels}


def scores_digest(detector: Any) -> str:
    """Returns the sha256 of a detector's calibration scores."""
    return hashlib.sha256(np.ascontiguousarray(detector.calibration_scores_, dtype=float).tobytes()).hexdigest()


def statistic_of(detector: Any) -> str:
    """Returns the name of a detector's statistic."""
    named = (getattr(detector, attribute, None) for attribute in ("statistic", "name"))
    return next((str(name) for name in named if name), type(detector).__name__)


def versions(*packages: str) -> dict[str, str]:
    """Returns the installed versions of packages."""
    return {name: importlib.metadata.version(name) for name in packages}


@functools.cache
def source_digest(*modules: ModuleType) -> str:
    """Returns the sha256 of the source of modules and, for packages, of all modules in them."""
    sha = hashlib.sha256()
    for module in modules:
        path = Path(inspect.getfile(module))
        for file in sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]:
            sha.update(f"{module.__name__} {file.relative_to(path.parent).as_posix()} ".encode())
            sha.update(file.read_bytes())
    return sha.hexdigest()


def _code_of(thing: Any) -> bytes:
    """Returns the digest of the module that defines a class or a function; for torch, its version says as much."""
    name = getattr(thing, "__module__", None) or type(thing).__module__
    if name.partition(".")[0] == "torch":
        return b""
    try:
        return source_digest(sys.modules[name]).encode()
    except (KeyError, OSError, TypeError):  # typed in, or built in
        return repr(thing).encode() if isinstance(thing, type) else type(thing).__name__.encode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
