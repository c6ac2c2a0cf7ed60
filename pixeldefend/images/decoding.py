"""Image files and PIL images as uint8 arrays (H, W) or (H, W, 3)."""

from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ..errors import ImageError, ParameterError
from ..extras import extra
from .conversion import to_8_bits
from .essentials import essentials
from .integrity import check_container, check_jpeg_pixels
from .origin import Origin, read_origin

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
CONVERTED_FORMATS = ("TIFF", "AVIF", "HEIC")  # read only if conversions are allowed
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
MAX_BYTES = 128 * 2**20  # a lossless photograph of 50 megapixels has about 80
MAX_PIXELS = 64 * 2**20  # decoding takes about 10 bytes a pixel
MAX_FRAMES = 256

# Pillow's classes are called directly: `Image.open` obeys a global limit of pixels, and only warns beyond it
PLUGINS: dict[str, Any] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,  # of a phone's MPO file it reads the first picture
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientation -> what makes (H, W, ...) upright
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # their lengths in bytes
TIFF_BITS, TIFF_SAMPLES, TIFF_LAYOUT = 258, 277, 284  # tags
TIFF_STRIPS, TIFF_STRIP_LENGTHS, TIFF_TILES, TIFF_TILE_LENGTHS = 273, 279, 324, 325  # tags
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

Frames = Literal["first", "all"]


@dataclass(frozen=True)
class DecodedImage:
    """The pixels of an image file.

    Attributes:
        frames: The frames, each uint8 (H, W) or (H, W, 3). A still image has one.
        conversion: The conversions that lost information, in words; None if there was none.
        origin: What the file says of its compression; None if the pixels come from no file.
    """

    frames: tuple[np.ndarray, ...]
    conversion: str | None = None
    origin: Origin | None = None


def decode_image(
    file: str | os.PathLike[str] | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    frames: Frames | None = None,
    convert: bool = False,
    check_size: Callable[[int, int], None] | None = None,
) -> DecodedImage:
    """Decodes one image file: PNG, JPEG, WebP, BMP or GIF; or TIFF, AVIF or HEIC if conversions are allowed.

    The format is recognised by the content of the file, not by its name. EXIF orientation is applied, palettes and
    1-bit images are expanded, and a fully opaque alpha channel is dropped. An MPO file of a phone gives its first
    picture. All limits of size are checked before decoding. Checksums, lengths and the completeness of the compressed
    data are checked by pixeldefend, whatever Pillow's global switches say. An orientation in XMP is not applied.

    Args:
        file: A path, or the bytes of a file.
        max_pixels: The largest width times height that is decoded, of all frames together.
        frames: Which frames of an animation, or pages of a TIFF file, are decoded: "first", or "all" of at most
            `MAX_FRAMES`. None refuses images with several.
        convert: Whether to convert images that are otherwise refused. Of 16 bits the upper 8 are kept, CMYK becomes
            RGB without a colour profile, translucent images are flattened onto white, and TIFF, AVIF and HEIC files are
            decoded. HEIC needs the extra "heic".
        check_size: A function that is called with the height and the width of the image, before EXIF orientation is
            applied and before anything is decoded. It may raise an error.

    Returns:
        The frames, the conversions, and what the file says of its compression.

    Raises:
        ImageError: If the file is empty, damaged, of another format, above `MAX_BYTES` or `max_pixels`, or a JPEG of
            too many scans or segments; or if the image is animated, translucent, 16-bit, CMYK or of another mode, and
            the arguments do not allow for it.
        MissingExtraError: If the file is HEIC, and pillow-heif is missing.
        ParameterError: If `frames` has another value.
        OSError: If the file cannot be read.
    """
    if frames not in (None, "first", "all"):
        raise ParameterError(f"frames must be 'first', 'all' or None, got {frames!r}")
    data = file if isinstance(file, bytes) else read_bytes(file)
    format = _checked_format(data, convert)
    with _strictly():
        pixels_only, orientation = essentials(data, format)
        image = _opened(pixels_only, format, max_pixels)
    if check_size is not None:
        check_size(image.height, image.width)
    with _strictly():
        if format in FORMATS:
            check_container(data, format)
        origin = read_origin(data, format)
        notes = [f"{format} decoded to 8 bits"] if format in CONVERTED_FORMATS else []
        found = []
        pixels_so_far = 0
        for number in range(_number_of_frames(image, frames, max_pixels)):
            image.seek(number)
            pixels_so_far += image.width * image.height  # the pages of a TIFF differ in size
            if pixels_so_far > max_pixels:
                raise ImageError(f"the pages have more than {max_pixels} pixels together, the limit", "too large")
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                _check_strips(image, len(data))
            image.load()
            if format == "JPEG":
                check_jpeg_pixels(pixels_only, image)
            upright = ImageOps.exif_transpose(image) if format in CONVERTED_FORMATS else image
            pixels, lost = to_8_bits(upright, convert=convert, halved=_halved(pixels_only, format))
            found.append(_turned(pixels, orientation))  # later than by Pillow, whose images take a third more memory
            notes += [note for note in lost if note not in notes]
    return DecodedImage(tuple(found), "; ".join(notes) or None, origin)


def read_image(
    file: str | os.PathLike[str] | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    frames: Literal["first"] | None = None,
    convert: bool = False,
) -> np.ndarray:
    """Decodes one image file, as `decode_image` does.

    Args:
        file: A path, or the bytes of a file.
        max_pixels: The largest width times height that is decoded.
        frames: "first" for the first frame of an animation; None refuses animations.
        convert: Whether to convert images that are otherwise refused, as `decode_image` does.

    Returns:
        uint8, (H, W) for a grey image or (H, W, 3) for an RGB one.

    Raises:
        ImageError, MissingExtraError, ParameterError, OSError: As `decode_image` does.
    """
    return decode_image(file, max_pixels=max_pixels, frames=frames, convert=convert).frames[0]


def format_of(start: bytes) -> str | None:
    """Returns the format of an image file, one of `FORMATS` or `CONVERTED_FORMATS`, or None for other files.

    Args:
        start: The first 32 bytes of the file, or more.
    """
    if start.startswith(b"\x89PNG"):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in BMP_HEADERS:
        return "BMP"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if start[4:8] == b"ftyp":
        brands = [start[8:12], *(start[place : place + 4] for place in range(16, 32, 4))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if start[8:12] in HEIC_BRANDS:
            return "HEIC"
    return None


def looks_like_an_image(start: bytes) -> bool:
    """Returns whether a file begins like an image of a format that has a name in `FORMATS` or `CONVERTED_FORMATS`.

    Args:
        start: The first 32 bytes of the file, or more.
    """
    return format_of(start) is not None


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
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
        raise OSError(errno.EINVAL, "it is not a file, but a folder, a pipe or a device", str(path))
    with path.open("rb") as handle:
        return handle.read(MAX_BYTES + 1)


def to_array(image: Image.Image) -> np.ndarray:
    """Converts a PIL image, as `read_image` converts files.

    Args:
        image: A still image of any mode. Of an MPO file, the picture at which it stands.

    Returns:
        uint8, (H, W) for a grey image or (H, W, 3) for an RGB one.

    Raises:
        ImageError: If the image is damaged, animated, translucent, 16-bit, CMYK or of another mode.
    """
    with _strictly():
        if image.format != "MPO":
            _number_of_frames(image, None, MAX_PIXELS)
        halved = not image.mode.startswith("I") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        return to_8_bits(ImageOps.exif_transpose(image), halved="16-bit colour" if halved else None)[0]


def _checked_format(data: bytes, convert: bool) -> str:
    """Returns the format of a file whose bytes allow it to be opened."""
    if not data:
        raise ImageError("the file is empty (0 bytes)", "empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has more than {MAX_BYTES} bytes, which is the limit", "too large")
    format = format_of(data[:32])
    if format is None:
        converted = ", ".join(CONVERTED_FORMATS)
        raise ImageError(f"the file is not an image in {', '.join(FORMATS)} or, with a conversion, {converted}")
    if format in CONVERTED_FORMATS and not convert:
        raise ImageError(
            f"the file is in {format}; save it as PNG as your classifier reads it, or allow the conversion (--convert)",
            "mode",
        )
    return format


def _opened(data: bytes, format: str, max_pixels: int) -> Image.Image:
    """Returns the image, not yet decoded unless it is HEIC."""
    if format == "HEIC":
        with extra("heic"):
            import pillow_heif
        file = pillow_heif.open_heif(data)
        _check_size(file.size[0], file.size[1], max_pixels)
        image: Image.Image = file.to_pillow()
    else:
        image = PLUGINS[format](io.BytesIO(data))
        _check_size(*image.size, max_pixels)
    return image


def _check_size(width: int, height: int, max_pixels: int, frames: int = 1) -> None:
    if width * height * frames > max_pixels:
        size = f"{width} x {height}" + (f" with {frames} frames" if frames > 1 else "")
        raise ImageError(f"the image is {size}, the limit is {max_pixels} pixels", "too large")


def _number_of_frames(image: Image.Image, frames: Frames | None, max_pixels: int) -> int:
    """Returns the number of frames to decode."""
    if frames == "first" or (number := _counted(image)) == 1:
        return 1
    if frames is None:
        what = "pages" if image.format == "TIFF" else "frames"
        raise ImageError(
            f"the image has {number} {what}; screen the first or all of them (--frames first, --frames all)", "mode"
        )
    if number > MAX_FRAMES:
        raise ImageError(f"the image has {number} frames, the limit is {MAX_FRAMES}", "too large")
    _check_size(*image.size, max_pixels, number)
    return number


def _counted(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow takes minutes to count many thousands of pages
        here = image.tell()
        try:
            for number in range(1, MAX_FRAMES + 1):
                image.seek(number)
            raise ImageError(f"the image has more than {MAX_FRAMES} pages, the limit", "too large")
        except EOFError:
            pass
        finally:
            image.seek(here)
    return int(getattr(image, "n_frames", 1))


def _check_strips(image: TiffImagePlugin.TiffImageFile, length: int) -> None:
    """Raises ImageError if the pixels of a page do not all lie within the file, which Pillow may forgive."""
    for places, lengths in ((TIFF_STRIPS, TIFF_STRIP_LENGTHS), (TIFF_TILES, TIFF_TILE_LENGTHS)):
        parts = zip(image.tag_v2.get(places, ()), image.tag_v2.get(lengths, ()), strict=True)
        if any(place + count > length for place, count in parts):
            raise ImageError("truncated or damaged: the file ends before its pixels do", "damaged")
    samples, bits = image.tag_v2.get(TIFF_SAMPLES, 1), image.tag_v2.get(TIFF_BITS, (1,))[0]
    layers = samples if image.tag_v2.get(TIFF_LAYOUT) == 2 else 1
    missing = image.width * image.height * layers
    tiles: list[Any] = image.tile
    for codec, (left, top, right, bottom), start, arguments in tiles:
        if codec != "raw":  # libtiff notices itself if a strip is missing or short
            return
        missing -= (right - left) * (bottom - top)
        row = ((right - left) * bits * samples // layers + 7) // 8
        if start + (bottom - top - 1) * (arguments[1] or row) + row > length:  # whatever the strip says of itself
            raise ImageError("truncated or damaged: the file ends before its pixels do", "damaged")
    if missing > 0:  # Pillow would make them black
        raise ImageError("truncated or damaged: some pixels are in no strip or tile", "damaged")


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(TURNED[orientation](pixels)) if orientation in TURNED else pixels


def _halved(data: bytes, format: str) -> str | None:
    """Returns what Pillow's decoder shortens to 8 bits, in words; None for nothing."""
    if format == "PNG" and data[24] == 16 and data[25] != 0:  # grey ones keep their 16 bits
        return "16-bit colour" if data[25] & 2 else "16-bit grey with transparency"
    if format == "BMP" and int.from_bytes(data[24:26] if data[14] == 12 else data[28:30], "little") == 16:
        return "16-bit colour (a BMP with 5 or 6 bits for each)"
    return None


@contextmanager
def _strictly() -> Iterator[None]:
    """Turns every error of Pillow inside the block into an `ImageError`."""
    try:
        yield
    except (ImageError, ModuleNotFoundError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # GIF, WebP and TIFF heed it
        raise ImageError(f"refused as a decompression bomb: {error}", "too large") from None
    except (struct.error, IndexError):
        raise ImageError("truncated or damaged: its parts do not fit together", "damaged") from None
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, struct.error, EOFError ...
        raise ImageError(f"truncated or damaged: {error}", "damaged") from None
