"""What took long to make, kept in a folder: an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..serialization import load_tensors, save_tensors


class Cache:
    """folder: where tensors are kept, None to keep nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def __call__(self, key: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """key: plain JSON values, all that the outcome depends on. Returns what `make` returned, now or at an earlier
        call with the same key. A file that cannot be read is made again."""
        if self.folder is None:
            return make()
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        if path.is_file():
            try:
                tensors, meta = load_tensors(path)
                if meta.get("key") == key:
                    return tensors
            except ValueError:
                pass
        tensors = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, {"kind": "kept", "key": key})
        return tensors


def digest(*modules: nn.Module | None) -> str:
    """Returns a sha256 of the modules' kinds, weights and buffers."""
    sha = hashlib.sha256()
    for module in modules:
        sha.update(type(module).__name__.encode())
        for name, tensor in module.state_dict().items() if module is not None else ():
            sha.update(f"{name} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
