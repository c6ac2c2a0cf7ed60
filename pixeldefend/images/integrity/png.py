"""Whether a PNG is whole.

Reference:
    www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .limits import MAX_CHUNKS, check_animation, damaged, too_many

# colour type -> samples of a pixel, and the depths a sample can have
SAMPLES = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
# Adam7: the first column and row of each pass, and the steps to the next ones
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
FILTERS = bytes(range(5))  # of a row
# Compressed bytes that are decompressed at a time: to 16 MiB at most, since deflate never shrinks by more than 1032.
PIECE = 2**14


def check_png(data: bytes) -> None:
    """Checks all checksums, the order of chunks, and that each frame has exactly the data it needs."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise damaged("the PNG does not begin like one")
    chunks = png_chunks(data)
    kind, body = next(chunks, (b"", memoryview(b"")))
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", body)
    samples, depths = SAMPLES.get(colour, (0, ()))
    if kind != b"IHDR" or not (width and height) or depth not in depths or compression or filtering or interlaced > 1:
        raise damaged("the PNG does not begin with its header")
    passes = PASSES if interlaced else ((0, 0, 1, 1),)

    image: list[memoryview] = []  # the compressed image, and frames: width, height and the same
    frames: list[tuple[int, int, list[memoryview]]] = []
    count = found = pieces = 0  # of frames, as the file says and as it has, and of what belongs to them
    previous = kind
    for kind, body in chunks:
        if kind == b"IDAT":
            if image and previous != kind:
                raise damaged("the image data of the PNG are not in one stretch")
            image.append(body)
        elif kind == b"IHDR" or (kind == b"fdAT" and not image):
            raise damaged(f"the PNG has an {kind.decode()} out of place")
        elif kind == b"acTL" and not image:
            count = struct.unpack_from(">I", body)[0]
        elif kind in (b"fcTL", b"fdAT"):
            if struct.unpack_from(">I", body)[0] != pieces:
                raise damaged(f"the PNG lacks piece {pieces} of its animation")
            pieces += 1
            if kind == b"fdAT":
                frames[-1][2].append(body[4:])
            else:
                found += 1
                w, h, left, top = struct.unpack_from(">IIII", body, 4)
                if not (w and h) or left + w > width or top + h > height or (not image and (w, h) != (width, height)):
                    raise damaged("a frame of the PNG does not fit the image")
                if image:  # the frame that stands before is the image itself
                    frames.append((w, h, []))
        previous = kind
    if found != count:
        raise damaged(f"the PNG has {found} of {count} frames")
    # rows of one pixel have more bytes of filters than of pixels
    check_animation(sum(h * (1 + (w * samples * depth + 7) // 8) for w, h, _ in frames))
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
            raise damaged(f"the checksum of chunk {kind.decode('latin-1')!r} of the PNG is wrong")
        if kind == b"IEND":
            return
        yield kind, view[place + 8 : end]
        place = end + 4
    raise too_many(f"the PNG has more than {MAX_CHUNKS} chunks")


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
                        raise damaged("a row of the PNG has an unknown filter")
                done += len(piece)
                if done > size:
                    raise damaged("the PNG has more image data than its size needs")
    except zlib.error as error:
        raise damaged(f"the image data of the PNG: {error}") from None
    if done < size or not inflate.eof:
        raise damaged("the image data of the PNG end early")
