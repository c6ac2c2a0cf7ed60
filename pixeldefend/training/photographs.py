"""Photographs with histories: what a detector of photographs is trained and calibrated on."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError, PixelDefendError
from ..images import Origin, decode_image, read_bytes
from ..images.corruptions import HISTORIES, through_history
from ..images.files import find_files

AS_IT_CAME = "as_it_came"
# what a photograph may have been through; nothing, or one of the generators
NAMES = (AS_IT_CAME, *HISTORIES)
# how often the density sees the more usual ones; the others share the rest
SHARES = {AS_IT_CAME: 0.15, "resized": 0.15, "png_lossless": 0.12, "camera": 0.1, "sensor_noise": 0.06}
# the share of photographs of each part; a photograph belongs to the same part in every run
PARTS = {"train": 0.7, "calibration": 0.3}
TEST = "test"  # all photographs of other folders
MOST_PIXELS = 600_000  # of a source: a window of a larger photograph is used


def photographs(folders: Iterable[str], part: str) -> list[Path]:
    """Lists the photographs of one part.

    A photograph's part depends on the names of its file and folder, and on its copies: a file of which a copy is in the
    part for training is in no other part.

    Args:
        folders: Folders of photographs, which are searched with all their sub-folders.
        part: A key of `PARTS`, or "test" for all photographs.

    Returns:
        The paths, sorted.

    Raises:
        DataError: If there are none.
    """
    paths = [Path(item) for item in find_files(folders, lambda path, reason: None) if isinstance(item, str)]
    found = [path for path in paths if part == TEST or _is_for_training(path) == (part == "train")]
    if part == "calibration":
        trained = {_digest(path) for path in paths if _is_for_training(path)}
        found = [path for path in found if _digest(path) not in trained]
    if not found:
        raise DataError(f"there are no photographs of the part {part} in {', '.join(folders)}")
    return sorted(found)


def with_history(path: Path, name: str, *, seed: int) -> tuple[np.ndarray, Origin | None]:
    """Reads a photograph and gives it a history.

    Args:
        path: The image file.
        name: One of `NAMES`.
        seed: The seed of all random numbers.

    Returns:
        uint8 (H, W, 3), a window of at most `MOST_PIXELS` before the history; and what the file says of itself.

    Raises:
        PixelDefendError: If the file is no image that can be decoded, or is too small.
        OSError: If it cannot be read.
    """
    decoded = decode_image(read_bytes(path))
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    image = _window(_rgb(decoded.frames[0]), rng)
    if name == AS_IT_CAME:
        return image, decoded.origin
    decoded = decode_image(through_history(Image.fromarray(image), name, seed=int(rng.integers(2**31))))
    return _rgb(decoded.frames[0]), decoded.origin


def crops(paths: list[Path], count: int, side: int, *, seed: int, each: int = 8) -> Iterator[np.ndarray]:
    """Draws crops of photographs with random histories.

    Args:
        paths: The photographs. Those that cannot be read, or are too small after their history, are left out.
        count: The number of crops.
        side: Their height and width.
        seed: The seed of all random numbers.
        each: The number of crops of one image.

    Yields:
        uint8 (side, side, 3).

    Raises:
        DataError: If no photograph can be used.
    """
    rng = np.random.default_rng(seed)
    rest = (1 - sum(SHARES.values())) / (len(NAMES) - len(SHARES))
    shares = [SHARES.get(name, rest) for name in NAMES]
    made = 0
    while made < count:
        before = made
        for place in rng.permutation(len(paths)):
            name = str(rng.choice(NAMES, p=shares))
            try:
                image, _ = with_history(paths[place], name, seed=int(rng.integers(2**31)))
            except (PixelDefendError, OSError):
                continue
            if min(image.shape[:2]) < side:
                continue
            for _ in range(min(each, count - made)):
                top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
                yield image[top : top + side, left : left + side]
                made += 1
            if made >= count:
                break
        if made == before:
            raise DataError(f"none of {len(paths)} photographs can be read and has sides of at least {side} pixels")


def _is_for_training(path: Path) -> bool:
    name = os.fsencode(f"{path.parent.name}/{path.name}")  # names need not be valid UTF-8
    digest = hashlib.sha256(name).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < PARTS["train"]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else image[..., None].repeat(3, 2)


def _window(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cuts a window of at most `MOST_PIXELS` on the 16 x 16 grid of JPEG, so that the grid stays where it was."""
    height, width = image.shape[:2]
    if height * width <= MOST_PIXELS:
        return image
    sides = [min(length, int(MOST_PIXELS**0.5)) for length in (height, width)]
    sides = [min(length, MOST_PIXELS // other) for length, other in zip((height, width), reversed(sides), strict=True)]
    top, left = (
        16 * int(rng.integers((length - side) // 16 + 1)) for length, side in zip((height, width), sides, strict=True)
    )
    return image[top : top + sides[0], left : left + sides[1]]
