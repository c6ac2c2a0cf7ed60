"""Many images -> one record each, in order; one bad file never stops the rest."""

from .pipeline import Statistics, find_files, screen
from .records import Record
from .screener import Screened, Screener

__all__ = ["Record", "Screened", "Screener", "Statistics", "find_files", "screen"]
