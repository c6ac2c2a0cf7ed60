"""One door for whatever a user holds as an image: files, PIL images, numpy arrays, torch tensors.

Everything leaves it on the 8-bit grid: as a uint8 array (H, W) or (H, W, 3) for one file, as a float tensor
(N, C, H, W) in [0, 1] for the rest of the package.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 16 * 2**20
MAX_SCANS = 100  # of a JPEG, progressive ones have about ten; each costs a pass over all pixels, however few its bytes
MAX_SEGMENTS = 10_000  # of a JPEG; empty ones, millions of them, would cost seconds

# where a segment of a JPEG begins: 00 stands for an FF among the data, 01 and D0 to D8 have no segment
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
SCAN, END = 0xDA, 0xD9

WANTED = (
    "a path, a PIL image, a numpy array (H, W), (H, W, 3), (N, H, W) or (N, H, W, C), or a torch tensor (C, H, W) or "
    "(N, C, H, W), with C = 1 or 3; uint8, or floating point in [0, 1]"
)


def read_image(file: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes one image file (or its bytes): PNG, JPEG, WebP or BMP, by content and not by name.

    Returns uint8 (H, W) for grey images or (H, W, 3). EXIF orientation is applied; palettes and 1-bit images are
    expanded; an alpha channel that is fully opaque is dropped.
    Raises ValueError if the file is of another format, empty, truncated or damaged, above 64 MiB, max_pixels, or the
    scans and segments of a JPEG that are read (all checked before anything is decoded), animated, 16-bit, CMYK or of
    another mode, or if it is translucent: what a classifier would see of those depends on a conversion that is not ours
    to choose. Raises OSError if the file cannot be read.
    """
    data = file if isinstance(file, bytes) else read_bytes(file)
    with _opened(data, max_pixels) as image:
        return _to_array(image)


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """data: of an image file. Returns its height and width as its header has them, before EXIF orientation; nothing is
    decoded. Raises ValueError as `read_image` does before it decodes."""
    with _opened(data, max_pixels) as image:
        return image.height, image.width


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Yields the image, not yet decoded, if its bytes and its header allow it."""
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise ValueError(f"the file has {len(data)} bytes, more than the {MAX_BYTES} that are read")
    if data.startswith(b"\x89PNG") and b"IEND" not in data:  # Pillow does not miss the end
        raise ValueError("truncated or damaged: the PNG has no end")
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    try:
        with _strictly(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width} x {image.height}"
                raise ValueError(f"the image is {size}, more than the {max_pixels} pixels that are decoded")
            if any(";16" in str(tile[3]) for tile in image.tile):  # Pillow would drop the lower 8 bits of RGB silently
                raise ValueError("16-bit PNGs are not screened; convert to 8-bit grey or RGB first")
            yield image
    except UnidentifiedImageError:
        if looks_like_an_image(data):
            raise ValueError("truncated or damaged: its header cannot be read") from None
        raise ValueError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from None


def _check_jpeg(data: bytes) -> None:
    """Raises ValueError for more scans or segments than are decoded. They are counted up to the end of the image, past
    segments (thumbnails, profiles) whose bytes may look like some."""
    scans, place = 0, 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, place)
        if found is None or found[0][1] == END:
            return
        scans += found[0][1] == SCAN
        if scans > MAX_SCANS:
            raise ValueError(f"the JPEG has more than {MAX_SCANS} scans; save it as a plain JPEG")
        place = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    raise ValueError(f"the JPEG has more than {MAX_SEGMENTS} segments; save it as a plain JPEG")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of a regular file, one more than `MAX_BYTES` of them at most. Raises OSError."""
    path = Path(path)
    if not path.is_file():  # a device or a pipe would block, or never end
        raise FileNotFoundError(f"there is no file {path}") if not path.exists() else OSError(f"{path} is not a file")
    with path.open("rb") as handle:
        return handle.read(MAX_BYTES + 1)


@contextmanager
def _strictly() -> Iterator[None]:
    """Whatever Pillow raises, or only warns of, becomes a ValueError that says what is wrong with the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (UnidentifiedImageError, ValueError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"refused as a decompression bomb: {error}") from None
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, struct.error, EOFError ...
        raise ValueError(f"truncated or damaged: {error}") from None


def looks_like_an_image(start: bytes) -> bool:
    """start: the first 32 bytes of a file, or more. Returns whether a PNG, JPEG, WebP or BMP begins so."""
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    bmp = start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    return webp or bmp or start.startswith((b"\x89PNG", b"\xff\xd8\xff"))


def to_batch(x: Any) -> tuple[Tensor, bool]:
    """x: a path, a PIL image, a numpy array (H, W), (H, W, 3), (N, H, W) or (N, H, W, C), or a torch tensor (C, H, W)
    or (N, C, H, W), with C = 1 or 3; uint8, or floating point in [0, 1].

    A numpy array (A, B, 3) is one RGB image, any other with three axes is a batch of grey ones.
    Returns the images as float32 (N, C, H, W) in [0, 1], each pixel the nearest of the 8-bit grid, and whether x was
    a single image.
    Raises ValueError, saying what came and what is wanted, for any other type, shape, dtype or range.
    """
    import torch

    if isinstance(x, (str, os.PathLike, bytes)):
        x = read_image(x)
    elif isinstance(x, Image.Image):
        with _strictly():
            x = _to_array(x)
    if isinstance(x, np.ndarray):
        tensor, single = _from_numpy(x)
    elif isinstance(x, torch.Tensor):
        tensor, single = _from_torch(x)
    else:
        raise ValueError(f"got {type(x).__module__}.{type(x).__qualname__}; wanted {WANTED}")
    if tensor.dtype == torch.uint8:
        return tensor / 255, single
    if not tensor.is_floating_point():
        raise ValueError(f"got dtype {tensor.dtype}; wanted uint8, or floating point in [0, 1]")
    tensor = tensor.float()
    if tensor.numel():
        if not torch.isfinite(tensor).all():
            raise ValueError("got NaN or infinite pixels; wanted floating point in [0, 1]")
        low, high = tensor.min().item(), tensor.max().item()
        if low < 0 or high > 1:
            hint = "; divide by 255 or pass uint8" if low >= 0 and 1 < high <= 255 else ""
            raise ValueError(f"got floating point pixels from {low:.4g} to {high:.4g}; wanted [0, 1]{hint}")
    return to_uint8(tensor) / 255, single


def match_channels(x: Tensor, channels: int) -> Tensor:
    """x: (N, 1 or 3, H, W). Returns (N, channels, H, W) with the same colours: grey images as RGB, or RGB images whose
    channels are equal as grey. Raises ValueError if x is in colour and channels is 1."""
    if x.shape[1] == channels:
        return x
    if channels == 3:
        return x.expand(-1, 3, -1, -1)
    if not (x[:, :1] == x).all():
        raise ValueError("the image is in colour, the detector models grey ones; convert it as your classifier does")
    return x[:, :1]


def to_uint8(x: Tensor) -> Tensor:
    """x: floating point in [0, 1]. Returns the nearest values of the 8-bit grid, as uint8."""
    import torch

    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def _to_array(image: Image.Image) -> np.ndarray:
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"the image is animated ({image.n_frames} frames)")  # type: ignore[attr-defined]
    image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    elif "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("LA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise ValueError("the image is translucent (alpha below 255); flatten it onto its background first")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode not in ("L", "RGB"):
        depth = " (16-bit or deeper)" if image.mode.startswith(("I", "F")) else ""
        raise ValueError(f"images of mode {image.mode}{depth} are not screened; convert to 8-bit grey or RGB first")
    return np.asarray(image)


def _from_numpy(x: np.ndarray) -> tuple[Tensor, bool]:
    import torch

    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"got a numpy array of dtype {x.dtype}; wanted uint8, or floating point in [0, 1]")
    if x.ndim == 2:
        batch, single = x[None, None], True
    elif x.ndim == 3 and x.shape[2] == 3:
        batch, single = x.transpose(2, 0, 1)[None], True
    elif x.ndim == 3:
        batch, single = x[:, None], False
    elif x.ndim == 4 and x.shape[3] in (1, 3):
        batch, single = x.transpose(0, 3, 1, 2), False
    else:
        raise ValueError(
            f"got a numpy array of shape {x.shape}; wanted (H, W), (H, W, 3), (N, H, W) or (N, H, W, 1 or 3)"
        )
    if batch.dtype.byteorder not in ("=", "|", "<") or batch.dtype.itemsize > 8 or batch.dtype == np.float16:
        batch = batch.astype(np.float32)
    return torch.from_numpy(np.array(batch, order="C")), single


def _from_torch(x: Tensor) -> tuple[Tensor, bool]:
    if x.ndim == 3 and x.shape[0] in (1, 3):
        return x.unsqueeze(0), True
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x, False
    raise ValueError(f"got a torch tensor of shape {tuple(x.shape)}; wanted (1 or 3, H, W) or (N, 1 or 3, H, W)")
