"""Screens many images into one record each, in order; one bad file never stops the rest."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import Statistics as Statistics
    from .pipeline import find_files as find_files
    from .pipeline import screen as screen
    from .records import Record as Record
    from .screener import Screened as Screened
    from .screener import Screener as Screener

__all__ = ["Record", "Screened", "Screener", "Statistics", "find_files", "screen"]
PLACES = {"Record": "records", "Screened": "screener", "Screener": "screener"}


def __getattr__(name: str) -> Any:  # torch takes seconds to import, and the audit log does not need it
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PLACES.get(name, 'pipeline')}", __name__), name)
