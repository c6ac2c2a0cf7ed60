"""PIL images of any mode as 8-bit grey or RGB arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from ..errors import ImageError

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
ROWS_COPIED = 256
HOW = "convert it to 8-bit grey or RGB as your classifier does, or allow the conversion (--convert)"


def to_8_bits(image: Image.Image, *, convert: bool = False, halved: str | None = None) -> tuple[np.ndarray, list[str]]:
    """Converts a still PIL image to grey or RGB.

    Palettes and 1-bit images are expanded, and a fully opaque alpha channel is dropped: no information is lost.
    Everything else is refused, or converted if it is allowed: the upper 8 of 16 bits are kept, CMYK and YCbCr become
    RGB without a colour profile, and translucent images are flattened onto white.

    Args:
        image: The image.
        convert: Whether conversions that lose information are allowed.
        halved: What the decoder has already shortened to 8 bits, such as "16-bit colour"; None for nothing.

    Returns:
        uint8, (H, W) for a grey image or (H, W, 3) for an RGB one, and the conversions that lost information, in words.

    Raises:
        ImageError: If the image needs a conversion that is not allowed, or one that does not exist.
    """
    notes: list[str] = []

    def lossy(what: str, done: str) -> None:
        if not convert:
            raise ImageError(f"the image is {what}; {HOW}", "mode")
        notes.append(done)

    if halved is not None:
        lossy(halved, f"{halved} to 8 bits")
        if image.mode == "RGB" and "transparency" in image.info:
            raise ImageError(f"the image is {halved} with a transparent colour, which cannot be converted", "mode")
    if image.mode in SIXTEEN_BITS:
        image = _upper_bits(image, lossy)
    if image.mode in ("CMYK", "YCbCr"):
        lossy(image.mode, f"{image.mode} to RGB")
        image = image.convert("RGB")
    image = _without_alpha(_expanded(image), lossy)
    if image.mode not in ("L", "RGB"):
        deep = " (32 bits a sub-pixel)" if image.mode in ("I", "F") else ""
        raise ImageError(
            f"the image has mode {image.mode}{deep}, which is not screened; convert it to 8-bit grey or RGB first",
            "mode",
        )
    return _array(image), notes


def _array(image: Image.Image) -> np.ndarray:
    """Copies the pixels strip by strip: np.asarray would need memory for a second copy."""
    pixels = np.empty((image.height, image.width, *([3] if image.mode == "RGB" else [])), np.uint8)
    for top in range(0, image.height, ROWS_COPIED):
        bottom = min(top + ROWS_COPIED, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _upper_bits(image: Image.Image, lossy: Callable[[str, str], None]) -> Image.Image:
    lossy("16-bit grey", "16-bit grey to 8 bits")
    values = np.asarray(image).astype(np.uint16)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        opaque = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
        return Image.merge("LA", [grey, Image.fromarray(opaque)])
    return grey


def _expanded(image: Image.Image) -> Image.Image:
    """Returns an image without a palette, with transparency as an alpha channel."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    if "transparency" in image.info and image.mode in ("1", "L", "RGB"):
        return image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode in ("RGBa", "La"):
        return image.convert(image.mode.upper())
    return image.convert("L") if image.mode == "1" else image


def _without_alpha(image: Image.Image, lossy: Callable[[str, str], None]) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image
    mode = "L" if image.mode == "LA" else "RGB"
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert(mode)
    lossy("translucent (alpha below 255)", "transparency flattened onto white")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert(mode)
