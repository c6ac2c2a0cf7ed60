"""Image files and PIL images -> uint8 arrays (H, W) or (H, W, 3)."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 16 * 2**20
MAX_SCANS = 100  # of a JPEG, progressive ones have about ten; each costs a pass over all pixels, however few its bytes
MAX_SEGMENTS = 10_000  # of a JPEG; empty ones, millions of them, would cost seconds

# where a segment of a JPEG begins: 00 stands for an FF among the data, 01 and D0 to D8 have no segment
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
SCAN, END = 0xDA, 0xD9


def read_image(file: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes one image file (or its bytes): PNG, JPEG, WebP or BMP, by content and not by name.

    Returns uint8 (H, W) for grey images or (H, W, 3). EXIF orientation is applied; palettes and 1-bit images are
    expanded; an alpha channel that is fully opaque is dropped.
    Raises ImageError if the file is of another format, empty, truncated or damaged, above 64 MiB, max_pixels, or the
    scans and segments of a JPEG that are read (all checked before anything is decoded), animated, 16-bit, CMYK or of
    another mode, or if it is translucent: what a classifier would see of those depends on a conversion that is not ours
    to choose. Raises OSError if the file cannot be read.
    """
    data = file if isinstance(file, bytes) else read_bytes(file)
    with _opened(data, max_pixels) as image:
        return to_array(image)


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """data: of an image file. Returns its height and width as its header has them, before EXIF orientation; nothing is
    decoded. Raises ImageError as `read_image` does before it decodes."""
    with _opened(data, max_pixels) as image:
        return image.height, image.width


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Yields the image, not yet decoded, if its bytes and its header allow it."""
    if not data:
        raise ImageError("the file is empty (0 bytes)", "empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has {len(data)} bytes, more than the {MAX_BYTES} that are read", "too large")
    if data.startswith(b"\x89PNG") and b"IEND" not in data:  # Pillow does not miss the end
        raise ImageError("truncated or damaged: the PNG has no end", "damaged")
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    try:
        with strictly(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width} x {image.height}"
                raise ImageError(
                    f"the image is {size}, more than the {max_pixels} pixels that are decoded", "too large"
                )
            if any(";16" in str(tile[3]) for tile in image.tile):  # Pillow would drop the lower 8 bits of RGB silently
                raise ImageError("16-bit PNGs are not screened; convert to 8-bit grey or RGB first", "mode")
            yield image
    except UnidentifiedImageError:
        if looks_like_an_image(data):
            raise ImageError("truncated or damaged: its header cannot be read", "damaged") from None
        raise ImageError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image", "format") from None


def _check_jpeg(data: bytes) -> None:
    """Raises ImageError for more scans or segments than are decoded. They are counted up to the end of the image, past
    segments (thumbnails, profiles) whose bytes may look like some."""
    scans, place = 0, 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, place)
        if found is None or found[0][1] == END:
            return
        scans += found[0][1] == SCAN
        if scans > MAX_SCANS:
            raise ImageError(f"the JPEG has more than {MAX_SCANS} scans; save it as a plain JPEG", "format")
        place = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    raise ImageError(f"the JPEG has more than {MAX_SEGMENTS} segments; save it as a plain JPEG", "format")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of a regular file, one more than `MAX_BYTES` of them at most. Raises OSError."""
    path = Path(path)
    if not path.is_file():  # a device or a pipe would block, or never end
        raise FileNotFoundError(f"there is no file {path}") if not path.exists() else OSError(f"{path} is not a file")
    with path.open("rb") as handle:
        return handle.read(MAX_BYTES + 1)


@contextmanager
def strictly() -> Iterator[None]:
    """Whatever Pillow raises, or only warns of, becomes an ImageError that says what is wrong with the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (UnidentifiedImageError, ImageError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"refused as a decompression bomb: {error}", "too large") from None
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, struct.error, EOFError ...
        raise ImageError(f"truncated or damaged: {error}", "damaged") from None


def looks_like_an_image(start: bytes) -> bool:
    """start: the first 32 bytes of a file, or more. Returns whether a PNG, JPEG, WebP or BMP begins so."""
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    bmp = start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    return webp or bmp or start.startswith((b"\x89PNG", b"\xff\xd8\xff"))


def to_array(image: Image.Image) -> np.ndarray:
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"the image is animated ({image.n_frames} frames)", "mode")  # type: ignore[attr-defined]
    image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    elif "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("LA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise ImageError("the image is translucent (alpha below 255); flatten it onto its background first", "mode")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode not in ("L", "RGB"):
        depth = " (16-bit or deeper)" if image.mode.startswith(("I", "F")) else ""
        raise ImageError(
            f"images of mode {image.mode}{depth} are not screened; convert to 8-bit grey or RGB first", "mode"
        )
    return np.asarray(image)
