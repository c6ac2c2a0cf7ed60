"""The share of high frequencies."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pixeldefend.errors import ImageError
from pixeldefend.images.spectrum import FREQUENCIES, energy_above


def test_white_noise_has_energy_in_proportion_to_the_area():
    x = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
    area = [1 - np.pi * frequency**2 for frequency in FREQUENCIES]
    np.testing.assert_allclose(energy_above(x), area, atol=0.02)


def test_a_wave_lies_at_its_frequency():
    wave = 128 + 50 * np.sin(2 * np.pi * 0.3 * np.arange(200))
    x = np.broadcast_to(wave, (100, 200)).round().astype(np.uint8)
    np.testing.assert_allclose(energy_above(x), [1, 1, 0, 0], atol=0.01)
    np.testing.assert_allclose(energy_above(x.T), energy_above(x), atol=0.01)


def test_enlarging_and_blurring_take_high_frequencies_away():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8))
    sharp = energy_above(np.asarray(image))
    for factor in (1.5, 2):
        large = image.resize((int(128 * factor),) * 2, Image.Resampling.LANCZOS)
        assert energy_above(np.asarray(large))[3] < 0.2 * sharp[3]
    assert (energy_above(np.asarray(image.filter(ImageFilter.GaussianBlur(2)))) < sharp).all()


def test_flat_images_have_none_and_small_ones_are_refused():
    assert energy_above(np.full((64, 64, 3), 9, np.uint8)).tolist() == [0, 0, 0, 0]
    with pytest.raises(ImageError, match=r"\(63, 64\)"):
        energy_above(np.zeros((63, 64), np.uint8))
