"""The parts of a PNG, JPEG or WebP file that decide its pixels, and its EXIF orientation.

Only these parts are given to Pillow, whose parsers of metadata warn about odd files: under a filter that turns warnings
into errors, an image would be refused for its metadata.
"""

from __future__ import annotations

import struct
import zlib

from .integrity.jpeg import join_jpeg, jpeg_segments
from .integrity.png import png_chunks
from .integrity.webp import webp_chunks

EXIF_SEGMENT = 0xE1
JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # comments, and application data but those of JFIF and Adobe
PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT"}
ORIENTATION, LONG = 0x0112, 4  # a tag of EXIF, and a type of numbers


def essentials(data: bytes, format: str) -> tuple[bytes, int]:
    """Separates the pixels of an image file from its metadata.

    Args:
        data: The bytes of a file.
        format: The format of the file.

    Returns:
        The file without metadata and without what follows its end, and the EXIF orientation, 1 to 8. A file that is
        neither PNG nor JPEG is returned as it is; only a PNG, JPEG or WebP file has an orientation here.

    Raises:
        ImageError: If a PNG, a JPEG or a WebP is truncated or damaged, or has more parts than the limits allow.
    """
    if format == "PNG":
        data, exif = _png(data)
    elif format == "JPEG":
        data, exif = _jpeg(data)
    else:
        exif = _exif_of_webp(data) if format == "WEBP" else b""
    return data, _orientation(exif)


def _png(data: bytes) -> tuple[bytes, bytes]:
    kept: list[bytes | memoryview] = [data[:8]]
    exif = b""
    for kind, body in png_chunks(data):
        if kind in PNG_PIXELS:
            kept += _png_chunk(kind, body)
        elif kind == b"eXIf":
            exif = bytes(body)
    return b"".join([*kept, *_png_chunk(b"IEND", memoryview(b""))]), exif


def _png_chunk(kind: bytes, body: memoryview) -> tuple[bytes | memoryview, ...]:
    return struct.pack(">I4s", len(body), kind), body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _jpeg(data: bytes) -> tuple[bytes, bytes]:
    segments = jpeg_segments(data)
    exif = (body for marker, body, _ in segments if marker == EXIF_SEGMENT and body.startswith(b"Exif\0"))
    return join_jpeg([segment for segment in segments if segment.marker not in JPEG_METADATA]), next(exif, b"")


def _exif_of_webp(data: bytes) -> bytes:
    return next((bytes(body) for kind, body in webp_chunks(data) if kind == b"EXIF"), b"")


def _orientation(exif: bytes) -> int:
    """Returns the orientation in a block of EXIF, 1 if it has none or cannot be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    if tiff[:2] not in (b"II", b"MM"):
        return 1

    def number(place: int, size: int) -> int:
        return int.from_bytes(tiff[place : place + size], "little" if tiff[:1] == b"I" else "big")

    first = number(4, 4)
    for place in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if number(place, 2) == ORIENTATION:
            value = number(place + 8, 4 if number(place + 2, 2) == LONG else 2)
            return value if 1 <= value <= 8 else 1
    return 1
