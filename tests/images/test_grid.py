"""Traces of JPEG in pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from pixeldefend.errors import ImageError
from pixeldefend.images.grid import jpeg_grid


def photograph(width: int = 128, height: int = 128, seed: int = 0) -> Image.Image:
    """Returns an image whose spectrum falls with the frequency, as that of photographs does."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    spectrum = np.fft.rfft2(rng.normal(size=(3, height, width))) / (frequency + 0.02)
    x = np.fft.irfft2(spectrum, (height, width))
    grey = x.mean(0)
    x = 0.8 * grey + 0.2 * x
    return Image.fromarray((128 + 40 * x / x.std()).clip(1, 254).astype(np.uint8).transpose(1, 2, 0))


def decoded_jpeg(image: Image.Image, **settings) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, "JPEG", **settings)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 95, 98])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_quality_and_the_place_of_the_grid_are_found(quality, mode):
    x = decoded_jpeg(photograph().convert(mode), quality=quality)
    for top, left in [(0, 0), (3, 6), (9, 40)]:
        found = jpeg_grid(x[top:, left:])
        assert found.present
        assert found.phase == (-top % 8, -left % 8)
        assert abs(found.quality - quality) <= 1


def test_blocks_show_at_low_quality():
    x = photograph()
    blockiness = [jpeg_grid(decoded_jpeg(x, quality=quality)).blockiness for quality in (10, 30, 60)]
    assert blockiness[0] > blockiness[1] > blockiness[2] > 0


def test_tables_of_other_encoders_leave_traces_too():
    table = [3 + (i // 8) + 2 * (i % 8) for i in range(64)]
    found = jpeg_grid(decoded_jpeg(photograph(), qtables=[table, table]))
    assert found.present
    assert found.phase == (0, 0)
    assert 80 <= found.quality <= 95


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("size", [(64, 64), (130, 100)])
def test_images_that_were_no_jpegs_have_no_grid(seed, size):
    found = jpeg_grid(np.asarray(photograph(*size, seed=seed)))
    assert not found.present
    assert found.quality is None


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint8),
        np.full((80, 64, 3), 200, np.uint8),
        np.arange(256, dtype=np.uint8).repeat(256).reshape(256, 256),
        (np.indices((64, 64)).sum(0) % 2 * 200 + 20).astype(np.uint8),
        np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8),
    ],
    ids=["black", "flat", "ramp", "chessboard", "noise"],
)
def test_artificial_images_have_no_grid(image):
    assert not jpeg_grid(image).present


def test_resizing_and_noise_take_the_grid_away():
    x = Image.fromarray(decoded_jpeg(photograph(160, 160), quality=85))
    assert jpeg_grid(np.asarray(x)).strength > 100
    assert not jpeg_grid(np.asarray(x.resize((130, 130), Image.Resampling.BICUBIC))).present
    noise = np.random.default_rng(0).normal(0, 4, (160, 160, 3))
    assert jpeg_grid((np.asarray(x) + noise).clip(0, 255).astype(np.uint8)).strength < 30


def test_clipped_pixels_do_not_hide_the_grid():
    light = np.linspace(0.2, 3, 128)[:, None]  # too little at the left, too much at the right
    exposed = Image.fromarray((np.asarray(photograph()) * light).clip(0, 255).astype(np.uint8))
    x = decoded_jpeg(exposed, quality=75)
    assert (x == 255).mean() > 0.1
    assert jpeg_grid(x).present
    assert jpeg_grid(x).quality == 75


def test_large_images_are_examined_in_tiles():
    x = decoded_jpeg(photograph(1100, 600), quality=85)
    found = jpeg_grid(x[5:, 2:])
    assert (found.present, found.phase, found.quality) == (True, (3, 6), 85)
    thin = np.ascontiguousarray(np.tile(x, (1, 4, 1))[:64])
    assert jpeg_grid(thin).present


def test_what_is_no_image():
    for shape in [(64,), (15, 64), (64, 64, 4)]:
        with pytest.raises(ImageError, match=str(shape[0])):
            jpeg_grid(np.zeros(shape, np.uint8))
