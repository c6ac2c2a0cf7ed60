"""The level of noise of an image."""

import numpy as np
import pytest

from pixeldefend.errors import ImageError
from pixeldefend.images.noise import noise_level


@pytest.mark.parametrize("deviation", [0.7, 2.0, 8.0])
def test_the_deviation_of_each_channel_is_found(deviation):
    noise = np.random.default_rng(0).normal(0, 1, (200, 200, 3)) * deviation * np.array([1, 2, 0.5])
    rows, columns = np.indices((200, 200))
    smooth = 100 + rows / 4 + columns / 8 + 40 * (columns > 90)  # with an edge
    x = (smooth[..., None] + noise).round().clip(0, 255).astype(np.uint8)
    expected = np.sqrt((deviation * np.array([1, 2, 0.5])) ** 2 + 1 / 12)  # rounding is noise, too
    np.testing.assert_allclose(noise_level(x), expected, rtol=0.06)
    np.testing.assert_allclose(noise_level(x[..., 1]), noise_level(x)[1:2])


def test_flat_images_and_steps_have_none():
    assert noise_level(np.full((20, 30), 77, np.uint8)).tolist() == [0]
    x = np.zeros((64, 64, 3), np.uint8)
    x[20:40, 10:50] = 200
    assert (noise_level(x) < 0.1).all()


def test_what_is_no_image():
    with pytest.raises(ImageError, match=r"\(1, 5\)"):
        noise_level(np.zeros((1, 5), np.uint8))
