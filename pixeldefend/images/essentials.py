"""The parts of a PNG, JPEG or WebP file that decide its pixels, and its EXIF orientation.

Only these parts are given to Pillow, whose parsers of metadata warn about odd files: under a filter that turns warnings
into errors, an image would be refused for its metadata.
"""

from __future__ import annotations

import re

# a segment of a JPEG begins here; 00 stands for an FF among the data; 01 and D0 to D8 have no segment
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
END_OF_IMAGE, EXIF = 0xD9, 0xE1
JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # comments, and application data but those of JFIF and Adobe
PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
ORIENTATION = 0x0112  # a tag of EXIF


def essentials(data: bytes, format: str) -> tuple[bytes, int]:
    """Separates the pixels of an image file from its metadata.

    Args:
        data: The bytes of a file, which may be damaged.
        format: The format of the file.

    Returns:
        The file without metadata and without what follows its end, and the EXIF orientation, 1 to 8. A file that is
        neither PNG nor JPEG is returned as it is; only a PNG, JPEG or WebP file has an orientation here.
    """
    if format == "PNG":
        data, exif = _png(data)
    elif format == "JPEG":
        data, exif = _jpeg(data)
    else:
        exif = _exif_of_webp(data) if format == "WEBP" else b""
    return data, _orientation(exif)


def _png(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, place = [data[:8]], b"", 8
    while place < len(data):
        kind, end = data[place + 4 : place + 8], place + 12 + int.from_bytes(data[place : place + 4], "big")
        if kind in PNG_PIXELS:
            kept.append(data[place:end])
        elif kind == b"eXIf":
            exif = data[place + 8 : end - 4]
        if kind == b"IEND":
            break
        place = end
    return b"".join(kept), exif


def _jpeg(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, place = [data[:2]], b"", 2
    while found := MARKER.search(data, place):
        kept.append(data[place : found.start()])  # compressed pixels
        kind, length = found[0][1], int.from_bytes(data[found.end() : found.end() + 2], "big")
        if kind == END_OF_IMAGE:
            kept.append(found[0])
            break
        place = found.end() + max(2, length)
        segment = data[found.start() : place]
        if kind not in JPEG_METADATA:
            kept.append(segment)
        elif kind == EXIF and segment[4:].startswith(b"Exif\0") and not exif:
            exif = segment[4:]
    return b"".join(kept), exif


def _exif_of_webp(data: bytes) -> bytes:
    place = 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"EXIF":
            return data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
    return b""


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
            return value if 1 <= (value := number(place + 8, 2)) <= 8 else 1
    return 1
