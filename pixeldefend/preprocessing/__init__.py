"""Turns images of any size into tiles that a density models, and the scores of tiles into one score per image."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError
from .aggregate import AGGREGATES, aggregated
from .base import Preprocessor, TileBatch
from .identity import Identity
from .resize import Resize
from .tiling import Tiles

PREPROCESSORS: dict[str, type[Preprocessor]] = {"identity": Identity, "resize": Resize, "tiles": Tiles}


def build(config: dict[str, Any]) -> Preprocessor:
    """Makes a preprocessor from its `config`.

    Args:
        config: "name", a key of `PREPROCESSORS`, and its parameters.

    Returns:
        The preprocessor.

    Raises:
        ModelError: If the name or a parameter is unknown.
    """
    parameters = {key: value for key, value in config.items() if key != "name"}
    if config.get("name") not in PREPROCESSORS:
        raise ModelError(f"unknown preprocessor {config.get('name')!r}; there are: {', '.join(PREPROCESSORS)}")
    try:
        return PREPROCESSORS[config["name"]](**parameters)
    except TypeError as error:
        raise ModelError(f"cannot build the preprocessor {config['name']}: {error}") from None


__all__ = [
    "AGGREGATES",
    "PREPROCESSORS",
    "Identity",
    "Preprocessor",
    "Resize",
    "TileBatch",
    "Tiles",
    "aggregated",
    "build",
]
