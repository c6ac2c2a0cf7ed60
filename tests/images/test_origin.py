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
    assert (found.format, found.size) == (format, len(file.getvalue()))
    return found


@pytest.mark.parametrize("quality", [1, 25, 49, 50, 75, 90, 95, 99, 100])
def test_the_quality_of_a_jpeg(quality):
    found = origin(COLOURS, "JPEG", quality=quality)
    assert (found.quality, found.distance, found.lossy, found.bits) == (quality, 0, True, 8)
    assert found.luminance == tuple(luminance_tables()[quality - 1].flatten().tolist())


def test_tables_of_other_encoders_are_near_some_quality():
    table = (LUMINANCE * 0.4).round().astype(int) + 1
    found = origin(COLOURS, "JPEG", qtables=[table.flatten().tolist()] * 2)
    assert found.luminance == tuple(table.flatten().tolist())
    assert abs(found.quality - 80) <= 4
    assert 0 < found.distance < 0.2


def test_the_nearest_quality_is_its_own():
    tables = luminance_tables()
    for quality in range(1, 101):
        found, distance = nearest_quality(tables[quality - 1])
        assert distance == 0
        assert (tables[found - 1] == tables[quality - 1]).all()


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_subsampling_and_scans(subsampling, progressive):
    found = origin(COLOURS, "JPEG", subsampling=subsampling, progressive=progressive)
    assert (found.subsampling, found.progressive) == (subsampling, progressive)
    assert origin(COLOURS.convert("L"), "JPEG").subsampling is None


def test_other_formats():
    assert origin(COLOURS, "WEBP").lossy is True
    assert origin(COLOURS, "WEBP", lossless=True).lossy is False
    moving = dict(save_all=True, append_images=[COLOURS.rotate(180)])
    assert origin(COLOURS, "WEBP", **moving).lossy is True
    assert origin(COLOURS, "WEBP", lossless=True, **moving).lossy is False
    png = origin(COLOURS, "PNG")
    assert (png.lossy, png.bits, png.palette, png.quality) == (False, 8, False, None)
    assert origin(COLOURS.quantize(16), "PNG").palette
    assert origin(COLOURS.convert("1"), "PNG").bits == 1
    assert origin(COLOURS, "GIF").palette
    assert origin(COLOURS, "BMP").lossy is False
    assert origin(COLOURS, "TIFF").lossy is None
