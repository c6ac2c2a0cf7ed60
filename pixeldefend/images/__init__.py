"""Images as users hold them: files, PIL images, numpy arrays and torch tensors."""

from .batch import from_uint8, match_channels, quantize, to_batch, to_uint8
from .decoding import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    SUFFIXES,
    image_size,
    looks_like_an_image,
    read_bytes,
    read_image,
)

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "from_uint8",
    "image_size",
    "looks_like_an_image",
    "match_channels",
    "quantize",
    "read_bytes",
    "read_image",
    "to_batch",
    "to_uint8",
]
