"""Image files and PIL images as uint8 arrays (H, W) or (H, W, 3)."""

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
# A progressive JPEG has about ten scans. Each costs a pass over all pixels, however few bytes it has.
MAX_SCANS = 100
# Millions of empty segments in a JPEG would cost seconds.
MAX_SEGMENTS = 10_000

# A segment of a JPEG begins here. 00 stands for an FF among the data; 01 and D0 to D8 have no segment.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
SCAN, END = 0xDA, 0xD9


def read_image(file: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes one image file: PNG, JPEG, WebP or BMP.

    The format is recognised by the content of the file, not by its name. EXIF orientation is applied, palettes and
    1-bit images are expanded, and a fully opaque alpha channel is dropped. All limits of size are checked before
    decoding.

    Args:
        file: A path, or the bytes of a file.
        max_pixels: The largest width times height that is decoded.

    Returns:
        uint8, (H, W) for a grey image or (H, W, 3) for an RGB one.

    Raises:
        ImageError: If the file is empty, damaged, of another format, above `MAX_BYTES` or `max_pixels`, or a JPEG of
            too many scans or segments; or if the image is animated, translucent, 16-bit, CMYK or of another mode. Such
            images need a conversion that only the owner of the classifier can choose.
        OSError: If the file cannot be read.
    """
    data = file if isinstance(file, bytes) else read_bytes(file)
    with _opened(data, max_pixels) as image:
        return to_array(image)


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Reads the size of an image from its header, without decoding it.

    Args:
        data: The bytes of an image file.
        max_pixels: The largest width times height that is accepted.

    Returns:
        Height and width, before EXIF orientation is applied.

    Raises:
        ImageError: As `read_image` does before it decodes.
    """
    with _opened(data, max_pixels) as image:
        return image.height, image.width


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Yields the image, not yet decoded, if its bytes and its header allow it."""
    if not data:
        raise ImageError("the file is empty (0 bytes)", "empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has {len(data)} bytes, the limit is {MAX_BYTES} bytes", "too large")
    if data.startswith(b"\x89PNG") and b"IEND" not in data:  # Pillow ignores a missing end
        raise ImageError("truncated or damaged: the PNG has no end", "damaged")
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    try:
        with strictly(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width} x {image.height}"
                raise ImageError(f"the image is {size}, the limit is {max_pixels} pixels", "too large")
            if any(";16" in str(tile[3]) for tile in image.tile):  # Pillow would drop the lower 8 bits of RGB silently
                raise ImageError("16-bit PNGs are not screened; convert to 8-bit grey or RGB first", "mode")
            yield image
    except UnidentifiedImageError:
        if looks_like_an_image(data):
            raise ImageError("truncated or damaged: its header cannot be read", "damaged") from None
        raise ImageError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from None


def _check_jpeg(data: bytes) -> None:
    """Raises ImageError if there are more scans or segments than the limits allow.

    Both are counted up to the end of the image. Segments are skipped whole: thumbnails and profiles may contain the
    bytes of a marker.
    """
    scans, place = 0, 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, place)
        if found is None or found[0][1] == END:
            return
        scans += found[0][1] == SCAN
        if scans > MAX_SCANS:
            raise ImageError(f"the JPEG has more than {MAX_SCANS} scans; save it as a plain JPEG", "too large")
        place = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    raise ImageError(f"the JPEG has more than {MAX_SEGMENTS} segments; save it as a plain JPEG", "too large")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Reads a regular file.

    Args:
        path: The file.

    Returns:
        Its bytes, at most `MAX_BYTES` + 1 of them.

    Raises:
        OSError: If there is no such file, it is not a regular file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():  # a device or a pipe would block, or never end
        raise FileNotFoundError(f"there is no file {path}") if not path.exists() else OSError(f"{path} is not a file")
    with path.open("rb") as handle:
        return handle.read(MAX_BYTES + 1)


@contextmanager
def strictly() -> Iterator[None]:
    """Turns every error of Pillow inside the block into an `ImageError`.

    Raises:
        ImageError: If the image is damaged, or is a decompression bomb (of which Pillow only warns).
    """
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
    """Returns whether a file begins like a PNG, JPEG, WebP or BMP.

    Args:
        start: The first 32 bytes of the file, or more.
    """
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    bmp = start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    return webp or bmp or start.startswith((b"\x89PNG", b"\xff\xd8\xff"))


def to_array(image: Image.Image) -> np.ndarray:
    """Converts a PIL image, as `read_image` converts files.

    Args:
        image: A still image of any mode.

    Returns:
        uint8, (H, W) for a grey image or (H, W, 3) for an RGB one.

    Raises:
        ImageError: If the image is animated, translucent, 16-bit, CMYK or of another mode.
    """
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
