"""Whether a JPEG is whole: its segments, and then its pixels.

Reference:
    www.w3.org/Graphics/JPEG/itu-t81.pdf
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...errors import ImageError
from .limits import MAX_SCANS, MAX_SEGMENTS, damaged, too_many

BASELINE, SEQUENTIAL, PROGRESSIVE = 0xC0, 0xC1, 0xC2
OTHER_CODINGS = {0xC3, *range(0xC5, 0xD0)} - {0xC8, 0xCC}
HUFFMAN_TABLES, RESTART_INTERVAL, SCAN, END = 0xC4, 0xDD, 0xDA, 0xD9
OTHER_SEGMENTS = {0xDB, 0xDC, 0xFE, *range(0xE0, 0xF0)}  # quantization, comments, and what applications add

MARKER = re.compile(rb"\xff+([^\x00\xff])")
# In the data of a scan, 00 stands for an FF among the data, and D0 to D7 are restart markers.
AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
RESTART = re.compile(rb"\xff([\xd0-\xd7])")

ROWS_COMPARED = 64  # at a time
UNSENT = 16  # more than the number of any bit of a coefficient


class Segment(NamedTuple):
    """A segment of a JPEG: its marker, what it says and, if it begins a scan, the data that follow it."""

    marker: int
    body: bytes
    scan: bytes


def jpeg_segments(data: bytes) -> list[Segment]:
    """Splits a JPEG up to its end, which has to be there.

    Segments are skipped whole: thumbnails and profiles may contain the bytes of a marker.
    """
    segments: list[Segment] = []
    scans, place = 0, 2
    while len(segments) < MAX_SEGMENTS:
        found = MARKER.match(data, place)
        if found is None:
            raise damaged(f"the JPEG breaks off at byte {place}")
        marker = found[1][0]
        if marker == END:
            return segments
        place = found.end() + struct.unpack_from(">H", data, found.end())[0]
        body, scan = data[found.end() + 2 : place], b""
        if marker == SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise too_many(f"the JPEG has more than {MAX_SCANS} scans")
            after = AFTER_SCAN.search(data, place)
            if after is None:
                raise damaged("the JPEG has no end")
            scan, place = data[place : after.start()], after.start()
            while b"\xff\xff" in scan:  # a marker may begin with several FF
                scan = scan.replace(b"\xff\xff", b"\xff")
            scan = scan.removesuffix(b"\xff")
        segments.append(Segment(marker, body, scan))
    raise too_many(f"the JPEG has more than {MAX_SEGMENTS} segments")


def check_jpeg(data: bytes) -> None:
    """Checks that scans send every bit of every coefficient, and that no restart marker is missing."""
    coding = interval = 0
    tables: set[int] = set()
    for marker, body, scan in jpeg_segments(data):
        if marker in OTHER_CODINGS:
            raise ImageError("lossless, hierarchical and arithmetic JPEGs are not screened; save it as a plain JPEG")
        if marker in (BASELINE, SEQUENTIAL, PROGRESSIVE) and not coding:
            coding = marker
            _, height, width, count = struct.unpack_from(">BHHB", body)
            names = body[6 : 6 + 3 * count : 3]
            sampling = [divmod(factors, 16) for factors in body[7 : 7 + 3 * count : 3]]
            most = [max(1, *factors) for factors in zip(*sampling, strict=True)]
            lowest = np.full((count, 64), UNSENT)  # the lowest bit that was sent of each coefficient
        elif marker == HUFFMAN_TABLES:
            while body:
                tables.add(body[0])
                body = body[17 + sum(body[1:17]) :]
        elif marker == RESTART_INTERVAL:
            interval = struct.unpack_from(">H", body)[0]
        elif marker == SCAN and coding:
            count = body[0]
            chosen: list[int] = []
            for name in body[1 : 1 + 2 * count : 2]:  # some encoders give all components one name
                chosen.append(min(i for i, known in enumerate(names) if known == name and i not in chosen))
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            high, low = divmod(bits, 16)
            if coding == PROGRESSIVE:
                if not (lowest[chosen, first : last + 1] == (high or UNSENT)).all() or (high and low != high - 1):
                    raise damaged("the scans of the JPEG do not continue one another")
            else:
                first, last, high, low = 0, 63, 0, 0
            lowest[chosen, first : last + 1] = low
            for dc, ac in (divmod(pair, 16) for pair in body[2 : 2 + 2 * count : 2]):
                lacking = (not first and not high and dc not in tables) or (last and ac + 16 not in tables)
                if lacking and (tables or coding == PROGRESSIVE):  # without any, it is a frame of motion JPEG
                    raise damaged("the JPEG lacks a Huffman table")
            _check_restarts(scan, interval, width, height, most, sampling[chosen[0]] if count == 1 else (1, 1))
        elif marker not in OTHER_SEGMENTS:
            raise damaged(f"the JPEG has a segment {marker:02X} out of place")
    if not coding or lowest.any():
        raise damaged("the JPEG lacks some of its scans")


def _check_restarts(
    scan: bytes, interval: int, width: int, height: int, most: list[int], factors: tuple[int, int]
) -> None:
    """Checks that a restart marker stands after every interval, in order, and nowhere else."""
    units = -(-width * factors[0] // (8 * most[0])) * -(-height * factors[1] // (8 * most[1]))
    wanted = (units - 1) // interval if interval else 0
    numbers = b"".join(found[1] for found in islice(RESTART.finditer(scan), wanted + 2))
    right = (bytes(range(0xD0, 0xD8)) * (wanted // 8 + 1))[: wanted + 1]
    if interval and scan.endswith(b"\xff" + right[wanted:]):  # some cameras mark the last interval too
        wanted += 1
    if numbers != right[:wanted]:
        raise damaged("the JPEG lacks a restart marker, or has one too many")


def _fillings(count: int) -> Iterator[bytes]:
    """Yields bytes to set behind the data of scans.

    One filling may by chance say what no data say: that blocks are empty (most easily in a progressive JPEG, where few
    bits can say it of many blocks). So there are several for small images, where that costs little. Few bits may be
    missing, so the first bits of the fillings differ as much as they can: they count up, mirrored. FF begins a marker.
    """
    for i in range(count):
        first = int(f"{i ^ 1:08b}"[::-1], 2)
        yield bytes([first]) + sha256(bytes([i])).digest().replace(b"\xff", b"\xfe")[:15]


def join_jpeg(segments: list[Segment], filling: bytes = b"") -> bytes:
    """Joins segments to a JPEG.

    Args:
        segments: The segments, without the end.
        filling: Bytes to set behind every stretch of data.

    Returns:
        The bytes of the file.
    """
    parts = [b"\xff\xd8"]
    for marker, body, scan in segments:
        parts += [struct.pack(">BBH", 0xFF, marker, len(body) + 2), body]
        if marker == SCAN:
            parts += [RESTART.sub(lambda found: filling + found[0], scan), filling]
    return b"".join([*parts, b"\xff\xd9"])


def check_jpeg_pixels(data: bytes, image: Image.Image) -> None:
    """Checks that the pixels of a JPEG are all from the file.

    Where the data of a scan end early, libjpeg makes up the rest and says nothing. But a scan that is whole does not
    mind what follows it. So the file is decoded again, with other bytes after each stretch of data: if these change a
    pixel, the data ended early.

    Args:
        data: The bytes of a JPEG that passes `check_container`.
        image: The file as Pillow decodes it, grey, RGB or CMYK, not yet oriented.

    Raises:
        ImageError: If the file is truncated or damaged.
    """
    width, height = image.size
    raw_mode = {"L": "L", "RGB": "RGB", "CMYK": "CMYK;I"}[image.mode]
    segments = jpeg_segments(data)
    progressive = any(segment.marker == PROGRESSIVE for segment in segments)
    for filling in _fillings(max(2, min(32 if progressive else 8, 2**18 // (width * height)))):
        try:
            again = Image.frombytes(image.mode, image.size, join_jpeg(segments, filling), "jpeg", raw_mode, "")
        except ValueError:  # an error of libjpeg, which Pillow can be told to ignore when it opens a file
            raise damaged("the data of the JPEG cannot be decoded") from None
        for top in range(0, height, ROWS_COMPARED):  # copies of all pixels would double the memory
            strip = (0, top, width, min(top + ROWS_COMPARED, height))
            if again.crop(strip).tobytes() != image.crop(strip).tobytes():
                raise damaged("the data of the JPEG end early")
        del again  # before the next one takes as much memory
