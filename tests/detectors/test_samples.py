"""Tests groups of images of one size."""

import numpy as np
import torch
from helpers import noise

from pixeldefend.detectors.samples import Samples
from pixeldefend.images.corruptions import corrupt


def test_every_second_image_goes_through_one_of_the_corruptions_in_turn():
    x = torch.from_numpy(noise(9))[:, None]
    mixed = Samples.of(x).mixed(["darker-10%", "blur-1"]).groups[0][1]
    clean = x / 255
    torch.testing.assert_close(mixed[::2], clean[::2])
    torch.testing.assert_close(mixed[[1, 5]], corrupt(clean[[1, 5]], "darker-10%"))
    torch.testing.assert_close(mixed[[3, 7]], corrupt(clean[[3, 7]], "blur-1"))
    assert Samples.of(x).mixed([]).groups[0][1] is x


def test_images_of_several_sizes_are_mixed_by_their_positions():
    images = [noise(1)[0] if k % 3 else np.zeros((16, 16), np.uint8) for k in range(8)]
    mixed = Samples.of_images(images).mixed(["brighter-10%"])
    for places, x in mixed.groups:
        for place, image in zip(places, x, strict=True):
            clean = torch.from_numpy(images[place])[None] / 255
            expected = corrupt(clean[None], "brighter-10%")[0] if place % 2 else clean
            torch.testing.assert_close(image, expected)
