"""Packages that are installed with an extra only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingExtraError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Makes a failed import say which extra brings the package.

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
