"""Makes the untrained density that suits a data set."""

from __future__ import annotations

from typing import Any

from ..data import DataSet
from ..densities import DENSITIES, Autoregressive, build
from ..errors import ParameterError

# number of levels of the data -> the head for such values
HEADS = {2: "bernoulli", 256: "logistics", None: "normals"}


def build_for(data: DataSet, model: str, /, **arguments: Any) -> Autoregressive:
    """Makes an untrained density for the events of a data set.

    For 8-bit images there may also be models of two levels, which get them binarised, and models of real numbers, which
    get them dequantised (`Density.to_support`).

    Args:
        data: The data set to model.
        model: A key of `pixeldefend.densities.DENSITIES`. A density that can have images of any size has them.
        **arguments: Arguments of the density. Without a `head` the density takes the one that suits the values: a
            Bernoulli for 2 levels, a discretized mixture of logistics for 256, a mixture of normals for real numbers, a
            categorical distribution for text and other numbers of levels.

    Returns:
        The untrained density.

    Raises:
        ParameterError: If the density does not model such events, an argument is unknown, or the head is for other
            values than those of the data.
    """
    levels = data.train.levels
    shape: tuple[int | None, ...] = data.train.shape
    for name in ("model", "event_shape"):
        if name in arguments:
            raise ParameterError(f"the data and --model determine {name}, so it cannot be set to {arguments[name]!r}")
    if model in DENSITIES:
        defaults = _defaults(data, DENSITIES[model])
        _check_suited(data, model, arguments.get("head", defaults["head"]))
        if len(DENSITIES[model].heads) == 1:  # which takes no argument for it
            del defaults["head"]
        if DENSITIES[model].any_size:
            shape = (shape[0], None, None)
        arguments = defaults | arguments
    if arguments.get("head") == "categorical" and levels not in (None, 256):
        arguments.setdefault("levels", levels)
    density = build({"model": model, "event_shape": shape, **arguments})
    assert isinstance(density, Autoregressive)
    if getattr(density, "classes", 0) and data.train.y is None:
        raise ParameterError(f"{data.name} has no labels, which {model} needs for its classes")
    if density.levels == levels or (len(shape) == 3 and levels == 256 and density.levels in (2, None)):
        return density
    raise ParameterError(
        f"{data.name} holds {_words(levels)}, but the head {arguments.get('head')!r} models {_words(density.levels)}"
    )


def _check_suited(data: DataSet, model: str, head: str) -> None:
    """Raises ParameterError, which names suitable models, if the model has no events of this kind or no such head."""
    kind = "images" if len(data.train.shape) == 3 else "rows"
    suited = [name for name, density in DENSITIES.items() if kind in density.events and head in density.heads]
    if model in suited or not suited:  # `build` reports an unknown head
        return
    holds = "images" if kind == "images" else f"rows of {data.train.shape[0]}"
    density = DENSITIES[model]
    lacks = f"has no head {head!r}" if kind in density.events else f"models {', '.join(sorted(density.events))}"
    raise ParameterError(
        f"{model} {lacks}; {data.name} holds {holds} of {_words(data.train.levels)}: take {', '.join(suited)}"
    )


def _defaults(data: DataSet, density: type[Autoregressive]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"head": density.default_head or HEADS.get(data.train.levels, "categorical")}
    if data.vocabulary is not None:  # characters have no order, however many they are
        defaults["head"] = "categorical"
        if "sequences" in density.events:
            defaults["vocabulary"] = data.vocabulary
    return defaults


def _words(levels: int | None) -> str:
    return "real numbers" if levels is None else f"{levels} levels"
