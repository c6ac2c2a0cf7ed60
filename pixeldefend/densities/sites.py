"""The order of an event's sites.

A site is one number of an event: an element of a row, or one channel of one pixel of an image (a sub-pixel). Images are
read in raster order, and channel by channel within a pixel, so every event is also a row of D sites.
"""

from __future__ import annotations

import itertools
import math

from torch import Tensor

from ..errors import ParameterError


def raster_order(event_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Lists the index of every site of an event.

    Args:
        event_shape: (D,), or (C, H, W) for images.

    Returns:
        D indices, in the order of `to_row`.
    """
    if len(event_shape) == 3:
        c, h, w = event_shape
        return [(k, i, j) for i, j, k in itertools.product(range(h), range(w), range(c))]
    return list(itertools.product(*map(range, event_shape)))


def at(site: tuple[int, ...]) -> tuple[slice | int, ...]:
    """Returns the index of a site in a batch of events."""
    return (slice(None), *site)


def to_row(x: Tensor) -> Tensor:
    """Arranges the sites of every event in a row.

    Args:
        x: (N, *event).

    Returns:
        (N, D), images in raster order, channel by channel within a pixel.
    """
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1)
    return x.flatten(1)


def from_row(row: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """Inverts `to_row`.

    Args:
        row: (N, D) values, or (N, D, P) parameters of the sites.
        event_shape: (D,), or (C, H, W) for images.

    Returns:
        (N, *event_shape), or (N, *event_shape, P).
    """
    n, _, *rest = row.shape
    if len(event_shape) == 3:
        c, h, w = event_shape
        return row.reshape(n, h, w, c, *rest).movedim(3, 1)
    return row.reshape(n, *event_shape, *rest)


def number_of_sites(event_shape: tuple[int, ...]) -> int:
    """Counts the sites of an event.

    Args:
        event_shape: (D,), or (C, H, W) for images.

    Returns:
        D.

    Raises:
        ParameterError: If the shape is empty or a size is below 1.
    """
    if not event_shape or None in event_shape or min(event_shape) < 1:
        raise ParameterError(f"event_shape must be (D,) or (C, H, W), all at least 1, got {tuple(event_shape)}")
    return math.prod(event_shape)
