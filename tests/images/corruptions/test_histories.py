"""Histories of photographs: which files come out, and whether their pixels are what they should be."""

import hashlib
import io
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from pixeldefend.errors import ImageError, ParameterError
from pixeldefend.images import decode_image
from pixeldefend.images.corruptions import HISTORIES, through_history
from pixeldefend.images.corruptions.camera import bilinear, linear, malvar, mosaic, sensor_noise, tone_curve
from pixeldefend.images.corruptions.drawn import drawing, screenshot
from pixeldefend.images.corruptions.histories import bilateral
from pixeldefend.images.corruptions.resampling import RESIZERS, resized
from pixeldefend.images.quantization import luminance_tables


def scene(width: int, height: int) -> Image.Image:
    """Returns smooth colours with edges and some texture, as a photograph has."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)).resize((width, height), 3)
    x = np.asarray(coarse, np.float32) * (1 - 0.4 * (np.indices((height, width)).sum(0) // 23 % 2))[..., None]
    return Image.fromarray((x + rng.normal(0, 3, (height, width, 1))).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", HISTORIES)
def test_any_photograph_becomes_a_file_that_is_read(name):
    for size in [(96, 131), (96, 96), (300, 97)]:
        for seed in range(3):
            data = through_history(scene(*size), name, seed=seed)
            assert data == through_history(scene(*size), name, seed=seed)
            decoded = decode_image(data)
            assert min(decoded.frames[0].shape[:2]) >= 64
            assert decoded.origin.format in ("JPEG", "WEBP", "PNG")
    assert data != through_history(scene(*size), name, seed=seed + 1)


def test_another_process_makes_the_same_files():
    code = """
import hashlib
from PIL import Image
from pixeldefend.images.corruptions import HISTORIES, through_history
image = Image.linear_gradient("L").resize((120, 100)).convert("RGB")
print([hashlib.sha256(through_history(image, name, seed=3)).hexdigest() for name in HISTORIES])
"""
    image = Image.linear_gradient("L").resize((120, 100)).convert("RGB")
    here = [hashlib.sha256(through_history(image, name, seed=3)).hexdigest() for name in HISTORIES]
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == str(here)


def files(name: str, count: int = 60) -> list[bytes]:
    return [through_history(scene(128, 128), name, seed=seed) for seed in range(count)]


def origins(name: str, count: int = 60):
    return [decode_image(file).origin for file in files(name, count)]


@pytest.mark.parametrize(
    ("name", "lowest", "highest"), [("camera", 75, 99), ("resized_jpeg", 50, 98), ("jpeg_twice", 50, 98)]
)
def test_jpegs_have_every_subsampling_and_the_qualities_that_are_promised(name, lowest, highest):
    found = [Image.open(io.BytesIO(file)) for file in files(name)]
    assert {one.format for one in found} == {"JPEG"}
    assert {get_sampling(one) for one in found} == {0, 1, 2}  # 4:4:4, 4:2:2 and 4:2:0
    libjpeg = {tuple(table.flatten().tolist()): quality for quality, table in enumerate(luminance_tables(), 1)}
    exact = [libjpeg[tuple(one.quantization[0])] for one in found if tuple(one.quantization[0]) in libjpeg]
    assert lowest <= min(exact) <= max(exact) <= highest
    assert max(exact) - min(exact) > (highest - lowest) / 2
    # makers of cameras have tables of their own
    assert (len(exact) < len(found)) == (name == "camera")


def test_formats():
    assert {one.format for name in ("resized", "png_of_jpeg", "sensor_noise") for one in origins(name, 4)} == {"PNG"}
    assert all(one.format == "WEBP" and one.lossy for one in origins("resized_webp", 4))
    assert set(Counter(one.format for one in origins("sharpened", 40))) == {"JPEG", "PNG", "WEBP"}
    assert any(Image.open(io.BytesIO(file)).mode == "P" for file in files("drawing", 40))
    assert sum(one.format == "PNG" for one in origins("screenshot", 20)) > 10


@pytest.mark.parametrize("name", RESIZERS)
def test_resizers_keep_a_flat_image_and_the_mean_of_a_smooth_one(name):
    resize = RESIZERS[name][1]
    flat = Image.new("RGB", (96, 80), (12, 200, 255))
    for size in [(64, 70), (150, 96), (31, 33)]:
        small = resize(flat, size)
        assert small.size == size
        assert small.getextrema() == flat.getextrema()
    smooth = Image.linear_gradient("L").convert("RGB")
    assert np.asarray(resize(smooth, (64, 64))).mean() == pytest.approx(np.asarray(smooth).mean(), abs=1)


def test_the_area_of_a_pixel_counts_in_parts():
    x = np.array([0, 90, 180], np.uint8)[None, :, None].repeat(3, 2).repeat(2, 0)
    half = RESIZERS["OpenCV area"][1](Image.fromarray(x), (2, 1))  # each new pixel covers one and a half
    assert np.asarray(half)[0, :, 0].tolist() == [30, 150]


def test_factors_and_sizes_stay_within_the_limits():
    image = scene(200, 100)
    for seed in range(30):
        small = resized(image, np.random.default_rng(seed), 0.25, 2)
        assert min(small.size) >= 64
        assert max(small.width / 200, small.height / 100) <= 2.21


def test_demosaicing_restores_what_is_smooth_and_keeps_what_was_measured():
    rows, columns = np.indices((30, 40), dtype=np.float32)
    smooth = np.stack([rows / 60, columns / 80, (rows + columns) / 140], 2)
    for demosaic in (bilinear, malvar):
        np.testing.assert_allclose(demosaic(mosaic(smooth))[2:-2, 2:-2], smooth[2:-2, 2:-2], atol=1e-5)
        noisy = np.random.default_rng(0).random((30, 40, 3), dtype=np.float32)
        raw = mosaic(noisy)
        np.testing.assert_allclose(mosaic(demosaic(raw)), raw, atol=1e-6)


def test_sensor_noise_grows_with_the_light():
    rng = np.random.default_rng(0)
    for light in (0.0, 0.1, 0.8):
        x = sensor_noise(np.full((300, 300), light, np.float32), rng, electron=1e-3, reading=2.0)
        assert x.mean() == pytest.approx(light, abs=3e-4)
        assert x.var() == pytest.approx(1e-3 * light + 4e-6, rel=0.05)


@pytest.mark.parametrize("demosaic", [bilinear, malvar])
def test_demosaicing_correlates_the_noise_of_neighbours(demosaic):
    raw = np.random.default_rng(0).normal(0, 1, (200, 200)).astype(np.float32)
    noise = demosaic(raw)
    for channel in noise.transpose(2, 0, 1):
        assert np.corrcoef(channel[:, :-1].ravel(), channel[:, 1:].ravel())[0, 1] > 0.1
    independent = np.random.default_rng(0).normal(0, 1, (200, 200))
    assert abs(np.corrcoef(independent[:, :-1].ravel(), independent[:, 1:].ravel())[0, 1]) < 0.02


def test_the_tone_curve_inverts_linear_light():
    values = np.arange(256)
    np.testing.assert_allclose(255 * tone_curve(linear(values), contrast=0.0), values, atol=1e-3)


def test_a_bilateral_filter_smooths_noise_and_keeps_edges():
    rng = np.random.default_rng(0)
    step = np.where(np.arange(40) < 20, 50.0, 200.0)[None, :, None].repeat(40, 0).repeat(3, 2)
    smooth = bilateral(step + rng.normal(0, 3, (40, 40, 1)), 2.0, 20.0)
    assert abs(smooth - step).max() < 8
    assert (smooth - step).std() < 1.5


def test_screenshots_are_mostly_flat_and_drawings_have_few_colours():
    flat = []
    for seed in range(10):
        x = np.asarray(screenshot(scene(400, 300), np.random.default_rng(seed)), int)
        flat.append((abs(np.diff(x, axis=1)).max(2) == 0).mean())
    assert np.median(flat) > 0.5
    assert all(drawing(scene(99, 120), np.random.default_rng(seed)).size == (99, 120) for seed in range(20))


def test_what_is_no_history_and_what_is_no_photograph():
    with pytest.raises(ParameterError, match="sepia"):
        through_history(scene(100, 100), "sepia", seed=0)
    with pytest.raises(ImageError, match="95 x 100"):
        through_history(scene(95, 100), "camera", seed=0)
    with pytest.raises(ImageError, match="'L'"):
        through_history(scene(100, 100).convert("L"), "camera", seed=0)
