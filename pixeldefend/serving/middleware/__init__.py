"""What stands before and after every request, one concern a file."""

from .limits import Limits, read_keys

__all__ = ["Limits", "read_keys"]
