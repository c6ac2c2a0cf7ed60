"""Whether a BMP is whole.

Reference:
    learn.microsoft.com/windows/win32/gdi/bitmap-storage
"""

from __future__ import annotations

import struct

from .limits import MAX_RLE_BYTES, damaged, too_many


def check_bmp(data: bytes) -> None:
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
        raise too_many(f"the BMP has more than {MAX_RLE_BYTES} bytes of run lengths")
    if compression in (0, 3):  # of run lengths, Pillow always demands all rows
        length = max(length, offset + (width * bits + 31) // 32 * 4 * abs(height))
    if length > len(data):
        raise damaged(f"the BMP has {len(data)} of {length} bytes")
