"""The densities by name; functions that make and load them.

To add a density, write one class in a file of its own, give it a `name`, and add it to `DENSITIES`: the command line,
the documentation and the contract tests take it from there.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from ..ambient import torch_defaults
from ..errors import ModelError, ParameterError
from ..serialization import load_tensors
from .autoregressive import Autoregressive
from .base import Density
from .ensemble import OrderEnsemble
from .eonade import EoNADE
from .fvsbn import FVSBN
from .gated_pixelcnn import GatedPixelCNN
from .made import MADE
from .nade import NADE
from .nelloc import NeLLoC
from .pixelcnn import PixelCNN
from .pixelcnnpp import PixelCNNPlusPlus
from .pixelrnn import DiagonalBiLSTM, RowLSTM
from .rnade import RNADE
from .rnn import RNN
from .wavenet import WaveNet

# name -> class; the name is the class's own
DENSITIES: dict[str, type[Autoregressive]] = {
    "fvsbn": FVSBN,
    "nade": NADE,
    "eonade": EoNADE,
    "rnade": RNADE,
    "made": MADE,
    "rnn": RNN,
    "row_lstm": RowLSTM,
    "diagonal_bilstm": DiagonalBiLSTM,
    "pixelcnn": PixelCNN,
    "gated_pixelcnn": GatedPixelCNN,
    "pixelcnnpp": PixelCNNPlusPlus,
    "wavenet": WaveNet,
    "nelloc": NeLLoC,
}


def build(config: dict[str, Any]) -> Density:
    """Makes an untrained density.

    Args:
        config: {"model": a key of `DENSITIES`, **the arguments of its class}, as `Density.config` holds it.

    Returns:
        The density.

    Raises:
        ParameterError: If the name or an argument is unknown, or an argument out of range.
    """
    model = config.get("model")
    if model == OrderEnsemble.name and {"density", "orderings"} <= config.keys():
        return OrderEnsemble(build(config["density"]), config["orderings"])  # type: ignore[arg-type]
    if model not in DENSITIES:
        raise ParameterError(f"unknown density {model!r}; there are: {', '.join(DENSITIES)}")
    make: Any = DENSITIES[model]
    try:
        density: Density = make(**{key: value for key, value in config.items() if key != "model"})
    except TypeError as error:  # an argument that it does not have, or of the wrong type
        raise ParameterError(f"cannot build {model}: {error}") from None
    return density


@torch_defaults()
def load(path: str | os.PathLike[str]) -> Density:
    """Reads a density that `Density.save` wrote.

    Args:
        path: The file.


    Returns:
        The density, in evaluation mode, on the CPU.

    Raises:
        ModelError: If the file is damaged or holds something else.
        FileNotFoundError: If there is no such file.
    """
    tensors, meta = load_tensors(path)
    if meta.get("kind") != "density":
        raise ModelError(f"{path} holds a {meta.get('kind')}, not a density")
    return restored(path, meta["density"], tensors).eval()


@torch_defaults(seed=0)
def restored(path: str | os.PathLike[str], config: dict[str, Any], tensors: dict[str, Tensor]) -> Density:
    """Makes the density of a file that has been read.

    Args:
        path: The file, for messages.
        config: As for `build`.
        tensors: The weights.

    Returns:
        The density.

    Raises:
        ModelError: If the config is unknown to this version, or the weights do not fit it.
    """
    try:
        density = build(config).float()
    except ParameterError as error:
        raise ModelError(f"{path}: the density cannot be built; the file may be of another version ({error})") from None
    try:
        density.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: the weights do not fit the density; the file may be of another version ({error})"
        ) from None
    return density
