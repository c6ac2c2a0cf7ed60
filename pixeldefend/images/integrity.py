"""Whether an image file is whole.

Decoders forgive much, and can be told to forgive more: what is missing becomes grey, or zeros, or other images' bytes.
Such an image would get a verdict. Nothing here heeds the switches of Pillow (`LOAD_TRUNCATED_IMAGES`,
`MAX_IMAGE_PIXELS`).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import ImageError

# A progressive JPEG has about ten scans. Each costs a pass over all pixels, however few bytes it has.
MAX_SCANS = 100
# Millions of empty segments in a JPEG would cost seconds.
MAX_SEGMENTS = 10_000
# The same for the chunks of a PNG or a WebP and the blocks of a GIF. A PNG of 128 MiB in chunks of 4 KiB has 32,000.
MAX_CHUNKS = 100_000
# Pillow decodes the run lengths of a BMP in Python: half a second for each MiB.
MAX_RLE_BYTES = 4 * 2**20
# Rows of a JPEG that are compared at a time.
ROWS_COMPARED = 64
# All frames of an animation together, decompressed: some seconds.
MAX_ANIMATION_BYTES = 2**30


def check_container(data: bytes, format: str) -> None:
    """Checks that the bytes are one whole file, as far as that can be told before its image is decoded.

    What follows the end of the image is ignored, since it changes no pixel.

    Args:
        data: The bytes of a file whose width times height is within the limits.
        format: "PNG", "JPEG", "WEBP", "BMP" or "GIF".

    Raises:
        ImageError: If the file is truncated or damaged; if it has more scans, segments, chunks or frames than the
            limits allow; or if it is a JPEG of a coding that has no recognisable end.
    """
    try:
        _CHECKS[format](data)
    except ImageError:
        raise
    except (IndexError, ValueError, struct.error):  # a part is missing, or has another length
        raise _damaged(f"the parts of the {format} do not fit together") from None


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
            raise _damaged("the data of the JPEG cannot be decoded") from None
        for top in range(0, height, ROWS_COMPARED):  # copies of all pixels would double the memory
            strip = (0, top, width, min(top + ROWS_COMPARED, height))
            if again.crop(strip).tobytes() != image.crop(strip).tobytes():
                raise _damaged("the data of the JPEG end early")
        del again  # before the next one takes as much memory


def _damaged(what: str) -> ImageError:
    """Returns the error for a damaged file."""
    return ImageError(f"truncated or damaged: {what}", "damaged")


def _too_many(what: str) -> ImageError:
    """Returns the error for a file that would take too long."""
    return ImageError(f"{what}; save the image again", "too large")


def _check_animation(size: int) -> None:
    """Raises ImageError if the frames of an animation have too many bytes together."""
    if size > MAX_ANIMATION_BYTES:
        raise _too_many(f"the frames of the animation have more than {MAX_ANIMATION_BYTES} bytes")


# PNG (https://www.w3.org/TR/png-3/)

# colour type -> samples of a pixel, and the depths a sample can have
SAMPLES = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
# Adam7: the first column and row of each pass, and the steps to the next ones
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
FILTERS = bytes(range(5))  # of a row
# Compressed bytes that are decompressed at a time: to 16 MiB at most, since deflate never shrinks by more than 1032.
PIECE = 2**14


def _check_png(data: bytes) -> None:
    """Checks all checksums, the order of chunks, and that each frame has exactly the data it needs."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise _damaged("the PNG does not begin like one")
    chunks = png_chunks(data)
    kind, body = next(chunks, (b"", memoryview(b"")))
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", body)
    samples, depths = SAMPLES.get(colour, (0, ()))
    if kind != b"IHDR" or not (width and height) or depth not in depths or compression or filtering or interlaced > 1:
        raise _damaged("the PNG does not begin with its header")
    passes = PASSES if interlaced else ((0, 0, 1, 1),)

    image: list[memoryview] = []  # the compressed image, and frames: width, height and the same
    frames: list[tuple[int, int, list[memoryview]]] = []
    count = found = pieces = 0  # of frames, as the file says and as it has, and of what belongs to them
    previous = kind
    for kind, body in chunks:
        if kind == b"IDAT":
            if image and previous != kind:
                raise _damaged("the image data of the PNG are not in one stretch")
            image.append(body)
        elif kind == b"IHDR" or (kind == b"fdAT" and not image):
            raise _damaged(f"the PNG has an {kind.decode()} out of place")
        elif kind == b"acTL" and not image:
            count = struct.unpack_from(">I", body)[0]
        elif kind in (b"fcTL", b"fdAT"):
            if struct.unpack_from(">I", body)[0] != pieces:
                raise _damaged(f"the PNG lacks piece {pieces} of its animation")
            pieces += 1
            if kind == b"fdAT":
                frames[-1][2].append(body[4:])
            else:
                found += 1
                w, h, left, top = struct.unpack_from(">IIII", body, 4)
                if not (w and h) or left + w > width or top + h > height or (not image and (w, h) != (width, height)):
                    raise _damaged("a frame of the PNG does not fit the image")
                if image:  # the frame that stands before is the image itself
                    frames.append((w, h, []))
        previous = kind
    if found != count:
        raise _damaged(f"the PNG has {found} of {count} frames")
    # rows of one pixel have more bytes of filters than of pixels
    _check_animation(sum(h * (1 + (w * samples * depth + 7) // 8) for w, h, _ in frames))
    for w, h, parts in [(width, height, image), *frames]:
        _check_inflated(parts, w, h, samples * depth, passes)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the kind and the body of every chunk before the end, which has to be there."""
    view = memoryview(data)
    place = 8
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if zlib.crc32(view[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise _damaged(f"the checksum of chunk {kind.decode('latin-1')!r} of the PNG is wrong")
        if kind == b"IEND":
            return
        yield kind, view[place + 8 : end]
        place = end + 4
    raise _too_many(f"the PNG has more than {MAX_CHUNKS} chunks")


def _check_inflated(
    parts: list[memoryview], width: int, height: int, bits: int, passes: tuple[tuple[int, int, int, int], ...]
) -> None:
    """Decompresses the rows of one frame piece by piece, and checks their length, their filters and the checksum."""
    runs = []  # of rows of one length: where the first begins, the length of each, and where the last one ends
    size = 0
    for x, y, across, down in passes:
        row = 1 + (-(-(width - x) // across) * bits + 7) // 8
        if row > 1 and y < height:
            runs.append((size, row, size := size + row * -(-(height - y) // down)))
    inflate = zlib.decompressobj()
    done = 0
    try:
        for part in parts:
            for start in range(0, len(part), PIECE):
                piece = inflate.decompress(part[start : start + PIECE], size - done + 1)
                for begin, row, end in runs:
                    first = begin + max(0, -(-(done - begin) // row)) * row
                    if piece[first - done : max(0, end - done) : row].translate(None, FILTERS):
                        raise _damaged("a row of the PNG has an unknown filter")
                done += len(piece)
                if done > size:
                    raise _damaged("the PNG has more image data than its size needs")
    except zlib.error as error:
        raise _damaged(f"the image data of the PNG: {error}") from None
    if done < size or not inflate.eof:
        raise _damaged("the image data of the PNG end early")


# JPEG (https://www.w3.org/Graphics/JPEG/itu-t81.pdf)

BASELINE, SEQUENTIAL, PROGRESSIVE = 0xC0, 0xC1, 0xC2
OTHER_CODINGS = {0xC3, *range(0xC5, 0xD0)} - {0xC8, 0xCC}
HUFFMAN_TABLES, RESTART_INTERVAL, SCAN, END = 0xC4, 0xDD, 0xDA, 0xD9
OTHER_SEGMENTS = {0xDB, 0xDC, 0xFE, *range(0xE0, 0xF0)}  # quantization, comments, and what applications add

MARKER = re.compile(rb"\xff+([^\x00\xff])")
# In the data of a scan, 00 stands for an FF among the data, and D0 to D7 are restart markers.
AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
RESTART = re.compile(rb"\xff([\xd0-\xd7])")

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
            raise _damaged(f"the JPEG breaks off at byte {place}")
        marker = found[1][0]
        if marker == END:
            return segments
        place = found.end() + struct.unpack_from(">H", data, found.end())[0]
        body, scan = data[found.end() + 2 : place], b""
        if marker == SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise _too_many(f"the JPEG has more than {MAX_SCANS} scans")
            after = AFTER_SCAN.search(data, place)
            if after is None:
                raise _damaged("the JPEG has no end")
            scan, place = data[place : after.start()], after.start()
            while b"\xff\xff" in scan:  # a marker may begin with several FF
                scan = scan.replace(b"\xff\xff", b"\xff")
            scan = scan.removesuffix(b"\xff")
        segments.append(Segment(marker, body, scan))
    raise _too_many(f"the JPEG has more than {MAX_SEGMENTS} segments")


def _check_jpeg(data: bytes) -> None:
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
                    raise _damaged("the scans of the JPEG do not continue one another")
            else:
                first, last, high, low = 0, 63, 0, 0
            lowest[chosen, first : last + 1] = low
            for dc, ac in (divmod(pair, 16) for pair in body[2 : 2 + 2 * count : 2]):
                lacking = (not first and not high and dc not in tables) or (last and ac + 16 not in tables)
                if lacking and (tables or coding == PROGRESSIVE):  # without any, it is a frame of motion JPEG
                    raise _damaged("the JPEG lacks a Huffman table")
            _check_restarts(scan, interval, width, height, most, sampling[chosen[0]] if count == 1 else (1, 1))
        elif marker not in OTHER_SEGMENTS:
            raise _damaged(f"the JPEG has a segment {marker:02X} out of place")
    if not coding or lowest.any():
        raise _damaged("the JPEG lacks some of its scans")


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
        raise _damaged("the JPEG lacks a restart marker, or has one too many")


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


# WebP (https://developers.google.com/speed/webp/docs/riff_container)


def _check_webp(data: bytes) -> None:
    """Checks that the chunks of an image are there whole. libwebp finds pixel data that end within a chunk."""
    if not {kind for kind, _ in webp_chunks(data)} & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise _damaged("the WebP lacks its image")


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the kind and the body of every chunk, all of which have to be there."""
    view = memoryview(data)
    place, end = 12, 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise _damaged(f"the WebP has {len(data)} of {end} bytes")
    for _ in range(MAX_CHUNKS):
        if place == end:
            return
        if place + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, place)
        start, place = place + 8, place + 8 + length + length % 2
        if place > end:
            break
        yield kind, view[start : start + length]
    else:
        raise _too_many(f"the WebP has more than {MAX_CHUNKS} chunks")
    raise _damaged("the WebP lacks the end of a chunk")


# BMP (https://learn.microsoft.com/windows/win32/gdi/bitmap-storage)


def _check_bmp(data: bytes) -> None:
    """Checks that the file is as long as it says, and as its rows are, where Pillow finds them."""
    length, _, offset, size = struct.unpack_from("<IIII", data, 2)
    compression = colours = 0
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<IiHHI", data, 18)
        colours = struct.unpack_from("<I", data, 46)[0]
    palette = (colours or 2**bits) * (3 if size == 12 else 4) if bits <= 8 else 0
    if offset == 14 + size:
        offset += palette
    elif not offset:
        offset = 14 + size + palette + (12 if compression == 3 and size == 40 else 0)  # with masks of colours
    if compression in (1, 2) and len(data) - offset > MAX_RLE_BYTES:
        raise _too_many(f"the BMP has more than {MAX_RLE_BYTES} bytes of run lengths")
    if compression in (0, 3):  # of run lengths, Pillow always demands all rows
        length = max(length, offset + (width * bits + 31) // 32 * 4 * abs(height))
    if length > len(data):
        raise _damaged(f"the BMP has {len(data)} of {length} bytes")


# GIF (https://www.w3.org/Graphics/GIF/spec-gif89a.txt)


def _check_gif(data: bytes) -> None:
    """Checks that every block is there up to the trailer, and that every frame has all its pixels."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + _palette_bytes(flags)
    pixels = frames = 0
    for _ in range(MAX_CHUNKS):
        kind = data[place : place + 1]
        if kind == b";" and frames:
            return
        if kind == b"!":
            place = _after_blocks(data, place + 2)
        elif kind == b",":
            left, top, w, h, flags = struct.unpack_from("<HHHHB", data, place + 1)
            if not frames:  # decoders enlarge the image for the first frame
                width, height = max(width, left + w), max(height, top + h)
            if left + w > width or top + h > height:
                raise _damaged("a frame of the GIF lies outside of it")
            pixels += w * h
            _check_animation(pixels)
            start = place + 10 + _palette_bytes(flags)
            place = _after_blocks(data, start + 1)
            try:
                Image.frombytes("L", (w, h), data[start + 1 : place], "gif", data[start])
            except ValueError:
                raise _damaged(f"the data of frame {frames} of the GIF end early") from None
            frames += 1
        else:
            raise _damaged(f"the GIF breaks off at byte {place}")
    raise _too_many(f"the GIF has more than {MAX_CHUNKS} blocks")


def _palette_bytes(flags: int) -> int:
    """Returns how many bytes the palette of a GIF, or of one of its frames, has."""
    return 3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, place: int) -> int:
    """Returns the place behind a row of blocks, the last of which is empty."""
    while length := data[place]:
        place += 1 + length
    return place + 1


_CHECKS = {"PNG": _check_png, "JPEG": _check_jpeg, "WEBP": _check_webp, "BMP": _check_bmp, "GIF": _check_gif}
