"""What an image file says of itself: its format, and how strongly its pixels were compressed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from .integrity import BASELINE, PROGRESSIVE, SEQUENTIAL, jpeg_segments, png_chunks, webp_chunks
from .quantization import nearest_quality

QUANTIZATION = 0xDB
# the shares of the chrominance in columns and rows -> what people call it
SUBSAMPLINGS = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (1, 2): "4:4:0",
    (2, 2): "4:2:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}
PALETTE = 3  # the colour type of a PNG


@dataclass(frozen=True)
class Origin:
    """What a file says of its pixels.

    Attributes:
        format: One of `FORMATS` or `CONVERTED_FORMATS`.
        size: The bytes of the file.
        lossy: Whether the format loses information, as JPEG and one kind of WebP do; None if that is unknown.
        quality: The quality of libjpeg, 1 to 100, whose luminance table is nearest to that of a JPEG. None for others.
        distance: How far the luminance table is from the one of that quality, as `nearest_quality` measures it. 0 means
            that the tables are equal; None for other formats.
        luminance: The luminance table of a JPEG: 64 steps, row after row. None for other formats.
        subsampling: The chroma subsampling of a JPEG, such as "4:2:0". None for a grey JPEG and for other formats.
        progressive: Whether a JPEG is progressive, or a PNG interlaced.
        bits: The bits of a sample of a PNG, or of a JPEG. None for other formats.
        palette: Whether the pixels of a PNG or a GIF are entries of a palette.
    """

    format: str
    size: int
    lossy: bool | None = None
    quality: int | None = None
    distance: float | None = None
    luminance: tuple[int, ...] | None = None
    subsampling: str | None = None
    progressive: bool = False
    bits: int | None = None
    palette: bool = False


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
        return _jpeg(data)
    if format == "PNG":
        _, header = next(png_chunks(data))
        depth, colour, interlaced = header[8], header[9], header[12]
        return Origin(format, len(data), False, progressive=bool(interlaced), bits=depth, palette=colour == PALETTE)
    if format == "WEBP":
        return Origin(format, len(data), _is_lossy_webp(data))
    if format in ("BMP", "GIF"):
        return Origin(format, len(data), False, palette=format == "GIF")
    return Origin(format, len(data))


def _jpeg(data: bytes) -> Origin:
    tables: dict[int, np.ndarray] = {}
    segments = jpeg_segments(data)
    frame = next(segment for segment in segments if segment.marker in (BASELINE, SEQUENTIAL, PROGRESSIVE))
    factors = [divmod(both, 16) for both in frame.body[7::3]]
    for segment in segments:
        if segment.marker == QUANTIZATION:
            tables |= _tables(segment.body)
    table = tables.get(frame.body[8])
    quality, distance = (None, None) if table is None or not table.all() else nearest_quality(table)
    return Origin(
        "JPEG",
        len(data),
        True,
        quality=quality,
        distance=distance,
        luminance=None if table is None else tuple(table.flatten().tolist()),
        subsampling=_subsampling(factors),
        progressive=frame.marker == PROGRESSIVE,
        bits=frame.body[0],
    )


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


def _subsampling(factors: list[tuple[int, int]]) -> str | None:
    """Returns the name of the chroma subsampling, given the factors (across, down) of the components."""
    if len(factors) < 3:
        return None
    (across, down), (chroma_across, chroma_down) = factors[:2]
    if across % chroma_across or down % chroma_down or factors[1] != factors[2]:
        return "other"
    return SUBSAMPLINGS.get((across // chroma_across, down // chroma_down), "other")


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
