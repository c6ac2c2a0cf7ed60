"""One door for whatever a user holds as an image: files, PIL images, numpy arrays, torch tensors."""

from .batch import match_channels, to_batch, to_uint8
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
    "image_size",
    "looks_like_an_image",
    "match_channels",
    "read_bytes",
    "read_image",
    "to_batch",
    "to_uint8",
]
