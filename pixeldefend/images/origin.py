"""What an image file says of itself: its format, and how strongly its pixels were compressed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from .integrity.jpeg import BASELINE, PROGRESSIVE, SEQUENTIAL, jpeg_segments
from .integrity.webp import webp_chunks
from .quantization import nearest_quality

QUANTIZATION = 0xDB
LOSSLESS = ("PNG", "BMP", "GIF")


@dataclass(frozen=True)
class Origin:
    """What a file says of its pixels.

    Attributes:
        format: One of `FORMATS` or `CONVERTED_FORMATS`.
        lossy: Whether the format loses information, as JPEG and one kind of WebP do; None if that is unknown.
        quality: The quality of libjpeg, 1 to 100, whose luminance table is nearest to that of a JPEG. None for others.
    """

    format: str
    lossy: bool | None = None
    quality: int | None = None


def read_origin(data: bytes, format: str) -> Origin:
    """Reads the headers of an image file.

    Args:
        data: The bytes of a file that passes `check_container`.
        format: The format of the file.

    Returns:
        What the file says.

    Raises:
        ImageError: If the file is damaged.
    """
    if format == "JPEG":
        return Origin(format, True, _quality(data))
    if format == "WEBP":
        return Origin(format, _is_lossy_webp(data))
    return Origin(format, False if format in LOSSLESS else None)


def _quality(data: bytes) -> int | None:
    tables: dict[int, np.ndarray] = {}
    segments = jpeg_segments(data)
    frame = next(segment for segment in segments if segment.marker in (BASELINE, SEQUENTIAL, PROGRESSIVE))
    for segment in segments:
        if segment.marker == QUANTIZATION:
            tables |= _tables(segment.body)
    table = tables.get(frame.body[8])
    return None if table is None or not table.all() else nearest_quality(table)


def _tables(body: bytes) -> dict[int, np.ndarray]:
    """Returns the tables of a segment by their numbers."""
    tables = {}
    while body:
        wide, number = divmod(body[0], 16)
        length = 128 if wide else 64
        steps = struct.unpack(">64H" if wide else ">64B", body[1 : 1 + length])
        table = np.empty(64, dtype=int)
        table[_ZIGZAG] = steps
        tables[number] = table.reshape(8, 8)
        body = body[1 + length :]
    return tables


# In files, steps stand along diagonals that go up and down by turns.
_ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))


def _is_lossy_webp(data: bytes) -> bool:
    """Returns whether a WebP, or the first frame of an animated one, is lossy."""
    for kind, body in webp_chunks(data):
        place = 16  # where the chunks of a frame begin
        while kind == b"ANMF" and place + 8 <= len(body):
            inner, length = struct.unpack_from("<4sI", body, place)
            if inner in (b"VP8 ", b"VP8L"):
                return inner == b"VP8 "
            place += 8 + length + length % 2
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
    return False
