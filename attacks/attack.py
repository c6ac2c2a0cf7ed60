"""The class of presets of attacks."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import MissingExtraError, ParameterError
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
            ParameterError: If there is no such class, or it does not take the settings.
        """
        module, _, name = self.kind.rpartition(":")
        try:
            with extra("attacks"):
                found = importlib.import_module(module or "foolbox.attacks")
        except MissingExtraError:
            if module and importlib.util.find_spec(module.partition(".")[0]) is None:
                raise ParameterError(f"there is no module {module!r}: an attack is MODULE:CLASS") from None
            raise
        if not hasattr(found, name):
            raise ParameterError(f"{found.__name__} has no attack {name!r}")
        try:
            return getattr(found, name)(**self.settings)
        except TypeError as error:
            raise ParameterError(f"{name} does not take the settings {dict(self.settings)}: {error}") from error

    def as_json(self) -> dict[str, Any]:
        """Returns all settings as plain JSON values, which identify the attack."""
        return asdict(self)
