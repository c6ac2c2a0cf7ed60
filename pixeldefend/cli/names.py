"""The names in help texts, taken from the registries, which are imported only when a help text is shown."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

# placeholder in a help text -> module and attribute that hold the names: a collection, or a function that returns one
REGISTRIES: dict[str, tuple[str, str]] = {
    "alternative_statistics": ("scores", "ALTERNATIVE_SCORES"),
    "attacks": ("attacks", "ATTACKS"),
    "backends": ("detectors.backends", "PRECISION"),
    "baselines": ("eval", "BASELINES"),
    "classifier_statistics": ("scores", "CLASSIFIER_SCORES"),
    "corruptions": ("images.corruptions", "CORRUPTIONS"),
    "datasets": ("data", "DATASETS"),
    "densities": ("densities", "DENSITIES"),
    "detector_aware_attacks": ("eval", "ADAPTIVE"),
    "histories": ("images.corruptions", "HISTORIES"),
    "imagenet_classifiers": ("imagenet", "EFFICIENTNETS"),
    "photo_baselines": ("eval", "PHOTO_BASELINES"),
    "statistics": ("scores", "SCORES"),
    "suffixes": ("data", "READERS"),
    "suites": ("eval", "SUITES"),
}
SHIPPED = {"detectors": "detector", "classifiers": "classifier"}


def names(placeholder: str) -> list[str]:
    """Returns the names that a placeholder stands for; raises KeyError if there is no such placeholder."""
    if placeholder in SHIPPED:
        from ..zoo import shipped

        return shipped(SHIPPED[placeholder])
    module, attribute = REGISTRIES[placeholder]
    found: Iterable[str] | Callable[[], Iterable[str]] = getattr(
        importlib.import_module(f"..{module}", __package__), attribute
    )
    return list(found() if callable(found) else found)


class _Names(dict[str, Any]):
    def __missing__(self, placeholder: str) -> str:
        try:
            return ", ".join(names(placeholder))
        except ModuleNotFoundError:
            return "to see their names, install the extra"


def filled(text: str | None) -> str | None:
    """Returns a help text with names in place of its placeholders, such as {attacks}."""
    return text if text is None or "{" not in text else text.format_map(_Names())
