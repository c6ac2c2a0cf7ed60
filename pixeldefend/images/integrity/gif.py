"""Whether a GIF is whole.

Reference:
    www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from __future__ import annotations

import struct

from PIL import Image

from .limits import MAX_CHUNKS, check_animation, damaged, too_many


def check_gif(data: bytes) -> None:
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
                raise damaged("a frame of the GIF lies outside of it")
            pixels += w * h
            check_animation(pixels)
            start = place + 10 + _palette_bytes(flags)
            place = _after_blocks(data, start + 1)
            try:
                Image.frombytes("L", (w, h), data[start + 1 : place], "gif", data[start])
            except ValueError:
                raise damaged(f"the data of frame {frames} of the GIF end early") from None
            frames += 1
        else:
            raise damaged(f"the GIF breaks off at byte {place}")
    raise too_many(f"the GIF has more than {MAX_CHUNKS} blocks")


def _palette_bytes(flags: int) -> int:
    """Returns how many bytes the palette of a GIF, or of one of its frames, has."""
    return 3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, place: int) -> int:
    """Returns the place behind a row of blocks, the last of which is empty."""
    while length := data[place]:
        place += 1 + length
    return place + 1
