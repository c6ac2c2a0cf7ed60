"""Density models p(x), one paper a file. `DENSITIES` names them; `build` makes one from its saved config."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from ..errors import ModelError, ParameterError
from ..serialization import load_tensors
from .base import Autoregressive, Density
from .ensemble import OrderEnsemble
from .eonade import EoNADE
from .fvsbn import FVSBN
from .gated_pixelcnn import GatedPixelCNN
from .made import MADE
from .nade import NADE
from .pixelcnn import PixelCNN
from .pixelcnnpp import PixelCNNPlusPlus
from .pixelrnn import DiagonalBiLSTM, RowLSTM
from .rnade import RNADE
from .rnn import RNN
from .sequences import SequenceModel
from .wavenet import WaveNet

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
}


def build(config: dict[str, Any]) -> Density:
    """config: {"model": a name in `DENSITIES`, ...its arguments}. Returns the untrained density.

    Raises ParameterError if the name or an argument is unknown.
    """
    model = config.get("model")
    if model == "order_ensemble" and {"density", "orderings"} <= config.keys():
        return OrderEnsemble(build(config["density"]), config["orderings"])  # type: ignore[arg-type]
    if model not in DENSITIES:
        raise ParameterError(f"unknown density {model!r}; there are: {', '.join(DENSITIES)}")
    try:
        return DENSITIES[model](**{key: value for key, value in config.items() if key != "model"})
    except TypeError as error:  # an argument that it does not have, or of the wrong type
        raise ParameterError(f"cannot make {model}: {error}") from None


def load(path: str | os.PathLike[str]) -> Density:
    """Reads what `Density.save` wrote. Raises ParameterError if the file is damaged or holds something else,
    FileNotFoundError if it is missing."""
    tensors, meta = load_tensors(path)
    if meta.get("kind") != "density":
        raise ModelError(f"{path} holds a {meta.get('kind')}, not a density")
    return restored(path, meta["density"], tensors).eval()


def restored(path: str | os.PathLike[str], config: dict[str, Any], tensors: dict[str, Tensor]) -> Density:
    """config, tensors: of the file at path. Returns the density that is in it. Raises ParameterError, naming the file, if
    they do not belong together."""
    density = build(config)
    try:
        density.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{path}: its weights do not fit its density, is it of another version? ({error})") from None
    return density


__all__ = [
    "DENSITIES",
    "FVSBN",
    "MADE",
    "NADE",
    "RNADE",
    "RNN",
    "Autoregressive",
    "Density",
    "DiagonalBiLSTM",
    "EoNADE",
    "GatedPixelCNN",
    "OrderEnsemble",
    "PixelCNN",
    "PixelCNNPlusPlus",
    "RowLSTM",
    "SequenceModel",
    "WaveNet",
    "build",
    "load",
]
