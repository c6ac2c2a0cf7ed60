"""Imports of packages that are installed only with an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingExtraError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turns a failed import inside the block into an error that names the extra.

    Args:
        name: The extra, such as "attacks".

    Raises:
        MissingExtraError: If an import inside the block finds no such package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        if isinstance(error, MissingExtraError) or package == "pixeldefend":
            raise
        raise MissingExtraError(package, name) from error
