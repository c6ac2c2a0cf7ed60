"""Many images -> one record each, in order; one bad file never stops the rest."""

from .screener import Record, Screened, Screener, Statistics, find_files, screen

__all__ = ["Record", "Screened", "Screener", "Statistics", "find_files", "screen"]
