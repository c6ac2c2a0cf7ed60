"""Images as users hold them: files, PIL images, numpy arrays and torch tensors."""

from .batch import from_uint8, match_channels, quantize, to_batch, to_uint8
from .decoding import (
    CONVERTED_FORMATS,
    FORMATS,
    MAX_BYTES,
    MAX_FRAMES,
    MAX_PIXELS,
    SUFFIXES,
    DecodedImage,
    Frames,
    decode_image,
    looks_like_an_image,
    read_bytes,
    read_image,
)
from .origin import Origin

__all__ = [
    "CONVERTED_FORMATS",
    "FORMATS",
    "MAX_BYTES",
    "MAX_FRAMES",
    "MAX_PIXELS",
    "SUFFIXES",
    "DecodedImage",
    "Frames",
    "Origin",
    "decode_image",
    "from_uint8",
    "looks_like_an_image",
    "match_channels",
    "quantize",
    "read_bytes",
    "read_image",
    "to_batch",
    "to_uint8",
]
