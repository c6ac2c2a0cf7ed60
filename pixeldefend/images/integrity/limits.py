"""The limits of image files, and the errors for files that are beyond them or damaged."""

from __future__ import annotations

from ...errors import ImageError

# A progressive JPEG has about ten scans. Each costs a pass over all pixels, however few bytes it has.
MAX_SCANS = 100
# Millions of empty segments in a JPEG would cost seconds.
MAX_SEGMENTS = 10_000
# The same for the chunks of a PNG or a WebP and the blocks of a GIF. A PNG of 128 MiB in chunks of 4 KiB has 32,000.
MAX_CHUNKS = 100_000
# Pillow decodes the run lengths of a BMP in Python: half a second for each MiB.
MAX_RLE_BYTES = 4 * 2**20
# All frames of an animation together, decompressed: some seconds.
MAX_ANIMATION_BYTES = 2**30


def damaged(what: str) -> ImageError:
    """Returns the error for a damaged file."""
    return ImageError(f"truncated or damaged: {what}", "damaged")


def too_many(what: str) -> ImageError:
    """Returns the error for a file that would take too long."""
    return ImageError(f"{what}; save the image again", "too large")


def check_animation(size: int) -> None:
    """Refuses an animation whose frames have too many bytes together.

    Args:
        size: The number of bytes of all frames, decompressed.

    Raises:
        ImageError: If there are more than `MAX_ANIMATION_BYTES`.
    """
    if size > MAX_ANIMATION_BYTES:
        raise too_many(f"the frames of the animation have more than {MAX_ANIMATION_BYTES} bytes")
