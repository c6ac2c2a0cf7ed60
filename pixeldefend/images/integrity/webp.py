"""Whether a WebP is whole.

Reference:
    developers.google.com/speed/webp/docs/riff_container
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .limits import MAX_CHUNKS, damaged, too_many


def check_webp(data: bytes) -> None:
    """Checks that the chunks of an image are there whole. libwebp finds pixel data that end within a chunk."""
    if not {kind for kind, _ in webp_chunks(data)} & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise damaged("the WebP lacks its image")


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the kind and the body of every chunk, all of which have to be there."""
    view = memoryview(data)
    place, end = 12, 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise damaged(f"the WebP has {len(data)} of {end} bytes")
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
        raise too_many(f"the WebP has more than {MAX_CHUNKS} chunks")
    raise damaged("the WebP lacks the end of a chunk")
