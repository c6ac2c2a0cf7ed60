"""What pixels say about JPEG: whether they were compressed, where the grid of blocks lies, and how strongly.

The coefficients of a decoded JPEG are whole multiples of its steps, but for the rounding of pixels, if they are
computed on the grid of 8 x 8 pixels that the encoder used. On any other grid they are not. The likelihood ratio of
the two cases is computed for every place of the grid, for some low frequencies and for every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import ImageError
from .quantization import luminance_tables

TILE = 128  # pixels, a multiple of 8
MOST_TILES = 4  # a side: an image of more pixels than these tiles have is examined in tiles that lie evenly apart
# Low frequencies have the most coefficients that are not zero. Above quality 96 their steps are 1, and only those of
# higher frequencies tell.
FREQUENCIES = [(row, total - row) for total in (1, 2, 3) for row in range(total + 1)]
FREQUENCIES += [(0, 5), (0, 6), (1, 5), (2, 4), (2, 5), (3, 4), (3, 5), (4, 3), (4, 4), (6, 0)]
STEPS = np.arange(2, 100)  # a step of 1 leaves no trace beside the rounding of pixels
BIN, BINS = 0.25, 1024  # of the histograms of absolute coefficients
ROUNDING = 0.38  # the standard deviation that the rounding of decoded pixels gives a coefficient
OUTLIERS = 0.05  # the share of coefficients that something has moved off the lattice
CONFIDENT = 8.0  # nats for a frequency whose step is used to tell the quality
PRESENT = 25.0  # nats: photographs without JPEG have less than 10, some drawings 20


@dataclass(frozen=True)
class JpegGrid:
    """The traces of JPEG in the pixels of an image.

    Attributes:
        strength: The log-likelihood ratio, in nats, between the best place of the grid and none, less that of the best
            other place. It grows with the number of pixels.
        phase: The row and the column, each 0 to 7, at which the first whole block begins, at the best place.
        quality: The quality of libjpeg that fits the steps at that place, 1 to 100; None if there is no JPEG. After two
            JPEGs with one grid it is mostly the lower quality.
        blockiness: The mean logarithm by how much the second differences of the pixels are larger across the borders of
            blocks than elsewhere, at that place.
    """

    strength: float
    phase: tuple[int, int]
    quality: int | None
    blockiness: float

    @property
    def present(self) -> bool:
        """Whether the image was a JPEG, was not resized since, and had a quality that leaves traces."""
        return self.strength >= PRESENT


def jpeg_grid(pixels: np.ndarray) -> JpegGrid:
    """Finds the traces of JPEG in the pixels of an image.

    Of an image with more than 512 x 512 pixels, 16 tiles of 128 x 128 pixels are examined.

    Args:
        pixels: uint8 (H, W) or (H, W, 3), of at least 16 pixels a side.

    Returns:
        The traces.

    Raises:
        ImageError: If the image is smaller or has another shape.

    Reference:
        Z. Fan and R. de Queiroz: Identification of bitmap compression history: JPEG detection and quantizer estimation
        (2003).
    """
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or min(pixels.shape[:2]) < 16:
        raise ImageError(f"got shape {pixels.shape}; wanted (H, W) or (H, W, 3), with 16 pixels a side or more", "size")
    counts = sum(_histograms(tile) for tile in _tiles(pixels))
    ratios = counts @ _log_ratios()  # frequencies, places, steps
    best = ratios.max(2)
    # the logarithm of the number of steps is the price of choosing among them
    places = np.maximum(best - np.log(len(STEPS)), 0).sum(0)
    place = int(places.argmax())
    strength = float(places[place] - np.delete(places, place).max())
    quality = _quality(ratios[:, place]) if strength >= PRESENT else None
    row, column = divmod(place, 8)
    tiles = [luma(tile) for tile in _tiles(pixels)]
    across = [_blockiness(tile, column) for tile in tiles] + [_blockiness(tile.T, row) for tile in tiles]
    return JpegGrid(strength, (row, column), quality, float(np.mean(across)))


def luma(pixels: np.ndarray) -> np.ndarray:
    """Returns the brightness that JPEG codes.

    Args:
        pixels: uint8 (H, W) or (H, W, 3).

    Returns:
        float32 (H, W), in [0, 255].
    """
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    return pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _tiles(pixels: np.ndarray) -> list[np.ndarray]:
    """Returns the image, or tiles of a large one, all of which begin at the same place of a grid."""
    height, width = pixels.shape[:2]
    if height * width <= (MOST_TILES * TILE) ** 2:
        return [pixels]
    tops, lefts = (
        [8 * round(place) for place in np.linspace(0, max(0, side - TILE) // 8, min(MOST_TILES, -(-side // TILE)))]
        for side in (height, width)
    )
    return [pixels[top : top + TILE, left : left + TILE] for top in tops for left in lefts]


@cache
def _transform() -> np.ndarray:
    """Returns the discrete cosine transform of 8 numbers, (8, 8)."""
    rows, columns = np.arange(8)[:, None], np.arange(8)
    matrix = 0.5 * np.cos((2 * columns + 1) * rows * np.pi / 16)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def _histograms(tile: np.ndarray) -> np.ndarray:
    """Counts the absolute coefficients of the blocks at every place: (frequencies, 64, BINS).

    Blocks with clipped pixels are left out, since clipping moves their coefficients off the lattice. The counts are
    weighted as if all places had equally many blocks.
    """
    clipped = ((tile == 0) | (tile == 255)).reshape(*tile.shape[:2], -1).any(2)
    dropped = sliding_window_view(sliding_window_view(clipped, 8, axis=0).any(2), 8, axis=1).any(2)
    rows = sliding_window_view(luma(tile), 8, axis=0) @ _transform().T
    height, width = tile.shape[0] - 7, tile.shape[1] - 7
    places = 8 * (np.arange(height) % 8)[:, None] + np.arange(width) % 8
    blocks = np.bincount(places.ravel(), minlength=64)
    counts = np.empty((len(FREQUENCIES), 64, BINS), np.float32)
    for number, (row, column) in enumerate(FREQUENCIES):
        windows = sliding_window_view(rows[..., row], 8, axis=1)
        coefficients = np.abs(windows @ _transform()[column])
        bins = np.minimum(coefficients / BIN + 0.5, BINS).astype(np.intp)
        bins[dropped] = BINS
        found = np.bincount((places * (BINS + 1) + bins).ravel(), minlength=64 * (BINS + 1))
        counts[number] = found.reshape(64, BINS + 1)[:, :BINS]  # without those that are dropped or too large
    return counts * (blocks.mean() / blocks)[:, None].astype(np.float32)


@cache
def _log_ratios() -> np.ndarray:
    """Returns (BINS, steps): the log-likelihood ratio between a lattice with rounding and a smooth distribution.

    Coefficients of less than half a step say nothing: those of smooth images are as small.
    """
    coefficients, steps = BIN * np.arange(BINS)[:, None], STEPS.astype(float)
    density = np.ones((BINS, len(steps)))
    for k in range(1, 60):  # the Fourier series of a normal distribution wrapped around a circle
        density += 2 * np.exp(-2 * (np.pi * k * ROUNDING / steps) ** 2) * np.cos(2 * np.pi * k * coefficients / steps)
    ratios = np.log(OUTLIERS + (1 - OUTLIERS) * np.maximum(density, 0))
    return np.where(coefficients > steps / 2, ratios, 0).astype(np.float32)


def _quality(ratios: np.ndarray) -> int:
    """Returns the quality whose luminance table fits best, given the log-likelihood ratios (frequencies, steps).

    Tables of other encoders fit no quality exactly. So the nearest is taken; the likelihood only chooses between those
    that are equally near.
    """
    rows, columns = np.array(FREQUENCIES).T
    tables = luminance_tables()[:, rows, columns]
    confident = ratios.max(1) >= CONFIDENT
    distances = np.abs(np.log(tables / STEPS[ratios.argmax(1)]))[:, confident].sum(1)
    with_one = np.pad(ratios, ((0, 0), (1, 0)))  # a step of 1 is neither likely nor unlikely
    likelihood = with_one[np.arange(len(rows)), np.minimum(tables, len(STEPS)) - 1].sum(1)
    return 100 - int(np.where(distances == distances.min(), likelihood, -np.inf)[::-1].argmax())


def _blockiness(tile: np.ndarray, column: int) -> float:
    """Returns the log ratio of the second differences across columns where blocks begin and across the others."""
    steps = np.diff(tile, axis=1)
    # clipped at 32 grey levels: edges of objects are no borders of blocks
    second = np.minimum(np.abs(2 * steps[:, 1:-1] - steps[:, :-2] - steps[:, 2:]), 32).mean(0)
    at_border = (np.arange(len(second)) + 2) % 8 == column
    return float(np.log((second[at_border].mean() + 0.1) / (second[~at_border].mean() + 0.1)))
