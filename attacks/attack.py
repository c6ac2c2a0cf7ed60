"""The class of presets of attacks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import ParameterError
from ..extras import extra


@dataclass(frozen=True)
class Attack:
    """An attack of foolbox with all of its settings, as plain values.

    Args:
        kind: A class in `foolbox.attacks`, or MODULE:CLASS for a class with the same interface elsewhere.
        eps: The budget, in units of [0, 1]; None for an attack that looks for the smallest perturbation.
        settings: Keyword arguments of the class, plain JSON values.
        is_control: Whether this is a control, for which every image counts as a success, misclassified or not.
    """

    kind: str
    eps: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_control: bool = False

    def make(self) -> Any:
        """Returns the foolbox attack.

        Raises:
            MissingExtraError: If foolbox is not installed.
            ParameterError: If there is no such class.
        """
        module, _, name = self.kind.rpartition(":")
        with extra("attacks"):
            found = importlib.import_module(module or "foolbox.attacks")
        if not hasattr(found, name):
            raise ParameterError(f"{found.__name__} has no attack {name!r}")
        return getattr(found, name)(**self.settings)

    def as_json(self) -> dict[str, Any]:
        """Returns all settings as plain JSON values, which identify the attack."""
        return asdict(self)
