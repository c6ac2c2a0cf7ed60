"""Whether an image file is whole.

Decoders forgive much, and can be told to forgive more: what is missing becomes grey, or zeros, or other images' bytes.
Such an image would get a verdict. Nothing here heeds the switches of Pillow (`LOAD_TRUNCATED_IMAGES`,
`MAX_IMAGE_PIXELS`).
"""

from __future__ import annotations

import struct

from ...errors import ImageError
from .bmp import check_bmp
from .gif import check_gif
from .jpeg import check_jpeg, check_jpeg_pixels
from .limits import MAX_ANIMATION_BYTES, MAX_CHUNKS, MAX_RLE_BYTES, MAX_SCANS, MAX_SEGMENTS, damaged
from .png import check_png
from .webp import check_webp

__all__ = [
    "MAX_ANIMATION_BYTES",
    "MAX_CHUNKS",
    "MAX_RLE_BYTES",
    "MAX_SCANS",
    "MAX_SEGMENTS",
    "check_container",
    "check_jpeg_pixels",
]

CHECKS = {"PNG": check_png, "JPEG": check_jpeg, "WEBP": check_webp, "BMP": check_bmp, "GIF": check_gif}


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
        CHECKS[format](data)
    except ImageError:
        raise
    except (IndexError, ValueError, struct.error):  # a part is missing, or has another length
        raise damaged(f"the parts of the {format} do not fit together") from None
