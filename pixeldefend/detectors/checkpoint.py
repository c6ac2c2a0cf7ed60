"""What is in the files of detectors."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from ..densities import Density, restored


def density_of(path: str | os.PathLike[str], tensors: dict[str, Tensor], meta: dict[str, Any]) -> Density:
    """Returns the density in a detector's file.

    Args:
        path: The file, for messages.
        tensors: The tensors in the file.
        meta: The metadata of the file.

    Raises:
        ModelError: If the weights do not belong to the density.
    """
    prefix = "density."
    weights = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    return restored(path, meta["density"], weights)
