"""Density models p(x), one paper a file. `DENSITIES` names them; `build` makes one from its saved config."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..datasets import DataSet
from ..storage import load_tensors
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

DENSITIES: dict[str, Callable[..., Autoregressive]] = {
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


OF_ROWS = ("fvsbn", "nade", "eonade", "rnade", "made", "rnn", "wavenet")  # those that model more than images


def build(config: dict[str, Any]) -> Density:
    """config: {"model": a name in `DENSITIES`, ...its arguments}. Returns the untrained density.

    Raises ValueError if the name or an argument is unknown.
    """
    model = config.get("model")
    if model == "order_ensemble" and {"density", "orderings"} <= config.keys():
        return OrderEnsemble(build(config["density"]), config["orderings"])  # type: ignore[arg-type]
    if model not in DENSITIES:
        raise ValueError(f"unknown density {model!r}; there are: {', '.join(DENSITIES)}")
    try:
        return DENSITIES[model](**{key: value for key, value in config.items() if key != "model"})
    except TypeError as error:  # an argument that it does not have, or of the wrong type
        raise ValueError(f"cannot make {model}: {error}") from None


def build_for(data: DataSet, model: str, /, **arguments: Any) -> Autoregressive:
    """data: what is to be modelled. Returns the untrained density for events of its shape, with the conditionals that
    suit its values, unless `arguments` name a `head`: a Bernoulli for 2 levels, a discretized mixture of logistics for
    256, a categorical distribution for text and other numbers of levels, a mixture of normals for real numbers and for
    RNADE.

    A model of two levels may be had for 8-bit images, which it sees binarised, and one of real numbers, which sees them
    dequantised (`Density.observe`). Raises ValueError as `build` does, and if the head has other values than the data.
    """
    levels, shape = data.train.levels, data.train.shape
    for name in ("model", "event_shape"):
        if name in arguments:
            raise ValueError(f"{name} is given by the data and --model, it cannot be set to {arguments[name]!r}")
    if len(shape) != 3 and model in DENSITIES and model not in OF_ROWS:
        raise ValueError(f"{model} models images, {data.name} holds rows of {shape[0]}: take {', '.join(OF_ROWS)}")
    if model == "pixelcnnpp" and levels != 256:
        raise ValueError(f"pixelcnnpp models 8-bit images, {data.name} holds images of {levels} levels: take pixelcnn")
    suited = {2: "bernoulli", 256: "logistics", None: "normals"}.get(levels, "categorical")
    if data.vocabulary is not None:  # characters have no order, however many they are
        suited = "categorical"
    elif model == "rnade":
        suited = "normals"
    arguments = {"head": suited, **arguments}
    if arguments["head"] == "categorical" and levels not in (None, 256):
        arguments.setdefault("levels", levels)
    if data.vocabulary is not None and DENSITIES.get(model) in (RNN, WaveNet):
        arguments["vocabulary"] = data.vocabulary
    density = build({"model": model, "event_shape": shape, **arguments})
    assert isinstance(density, Autoregressive)
    if getattr(density, "classes", 0) and data.train.y is None:
        raise ValueError(f"{data.name} has no labels, from which {model} could learn classes")
    if density.levels == levels or (len(shape) == 3 and levels == 256 and density.levels in (2, None)):
        return density
    holds, models = ("real numbers" if n is None else f"{n} levels" for n in (levels, density.levels))
    raise ValueError(f"{data.name} holds {holds}, but the head {arguments['head']!r} models {models}")


def load(path: str | os.PathLike[str]) -> Density:
    """Reads what `Density.save` wrote. Raises ValueError if the file is damaged or holds something else,
    FileNotFoundError if it is missing."""
    tensors, meta = load_tensors(path)
    if meta.get("kind") != "density":
        raise ValueError(f"{path} holds a {meta.get('kind')}, not a density")
    density = build(meta["density"])
    density.load_state_dict(tensors)
    return density.eval()


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
    "build_for",
    "load",
]
