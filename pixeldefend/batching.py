"""Batches that fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .errors import ParameterError

T = TypeVar("T")


def in_batches(function: Callable[[Any], T], x: Any, batch_size: int) -> Iterator[T]:
    """Calls a function on consecutive parts of x.

    A part that does not fit into memory is halved, with a warning, and later parts are no larger than its halves.

    Args:
        function: Takes a part of x.
        x: (N, ...), any object that has a length and can be sliced. If it is empty, the function is called once.
        batch_size: The largest part, at least 1.

    Yields:
        The result of the function for each part.

    Raises:
        ParameterError: If batch_size is below 1.
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size must be at least 1, got {batch_size}")
    start = 0
    while True:
        part = x[start : start + batch_size]
        try:
            result = function(part)
        except (RuntimeError, MemoryError) as error:
            if len(part) <= 1 or not is_out_of_memory(error):
                raise
            batch_size = len(part) // 2
            warnings.warn(
                f"a batch of {len(part)} does not fit into memory; continuing with batches of {batch_size}",
                stacklevel=2,
            )
            continue
        yield result
        start += len(part)
        if start >= len(x):
            return


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of torch or Python means that memory ran out."""
    # torch raises a plain RuntimeError for the memory of the CPU: its message is the only sign
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
