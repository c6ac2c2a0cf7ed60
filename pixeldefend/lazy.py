"""Names that a package imports when they are first used.

torch takes seconds to import, and extras may be missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from .extras import extra as needs


def names_from(package: str, modules: Mapping[str, str], extra: str | None = None) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package.

    Args:
        package: The package's `__name__`.
        modules: The names that the package offers, and the module of the package that defines each.
        extra: The extra that these modules need.

    Returns:
        A function from a name to what it stands for. It raises AttributeError for another name, and MissingExtraError
        if the extra is not installed.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with needs(extra) if extra is not None else nullcontext():
            module = importlib.import_module(f"{package}.{modules[name]}")
        return getattr(module, name)

    return __getattr__
