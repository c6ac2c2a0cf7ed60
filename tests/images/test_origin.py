"""What a file says of its compression."""

import io

import numpy as np
import pytest
from PIL import Image

from pixeldefend.images import decode_image
from pixeldefend.images.quantization import LUMINANCE, luminance_tables, nearest_quality

COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8))


def origin(image: Image.Image, format: str, **settings):
    file = io.BytesIO()
    image.save(file, format, **settings)
    found = decode_image(file.getvalue(), frames="first", convert=True).origin
    assert found.format == format
    return found


@pytest.mark.parametrize("quality", [1, 25, 49, 50, 75, 90, 95, 99, 100])
def test_the_quality_of_a_jpeg(quality):
    for settings in (dict(), dict(progressive=True), dict(subsampling="4:2:0")):
        found = origin(COLOURS, "JPEG", quality=quality, **settings)
        assert (found.quality, found.lossy) == (quality, True)
    assert origin(COLOURS.convert("L"), "JPEG", quality=quality).quality == quality


def test_tables_of_other_encoders_are_near_some_quality():
    table = (LUMINANCE * 0.4).round().astype(int) + 1
    found = origin(COLOURS, "JPEG", qtables=[table.flatten().tolist()] * 2)
    assert abs(found.quality - 80) <= 4


def test_the_nearest_quality_is_its_own():
    tables = luminance_tables()
    for quality in range(1, 101):
        found = nearest_quality(tables[quality - 1])
        assert (tables[found - 1] == tables[quality - 1]).all()


def test_other_formats():
    assert origin(COLOURS, "WEBP").lossy is True
    assert origin(COLOURS, "WEBP", lossless=True).lossy is False
    moving = dict(save_all=True, append_images=[COLOURS.rotate(180)])
    assert origin(COLOURS, "WEBP", **moving).lossy is True
    assert origin(COLOURS, "WEBP", lossless=True, **moving).lossy is False
    for format in ("PNG", "GIF", "BMP"):
        found = origin(COLOURS, format)
        assert (found.lossy, found.quality) == (False, None)
    assert origin(COLOURS, "TIFF").lossy is None
