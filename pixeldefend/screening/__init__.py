"""Screens many images into one record each, in order; one bad file never stops the rest."""

from typing import TYPE_CHECKING

from ..lazy import names_from

if TYPE_CHECKING:
    from .pipeline import Statistics as Statistics
    from .pipeline import find_files as find_files
    from .pipeline import screen as screen
    from .records import Record as Record
    from .screener import Screened as Screened
    from .screener import Screener as Screener

_MODULES = {
    "Record": "records",
    "Screened": "screener",
    "Screener": "screener",
    "Statistics": "pipeline",
    "find_files": "pipeline",
    "screen": "pipeline",
}
__all__ = ["Record", "Screened", "Screener", "Statistics", "find_files", "screen"]
__getattr__ = names_from(__name__, _MODULES)  # the audit log does not need torch
