"""Tests groups of images of one size."""

import numpy as np
import torch
from helpers import noise

from pixeldefend.detectors.samples import Samples
from pixeldefend.images.corruptions import corrupt


def test_images_come_again_after_one_of_the_corruptions_in_turn():
    x = torch.from_numpy(noise(9))[:, None]
    found = Samples.of(x).with_corrupted(["darker-10%", "blur-1"])
    assert len(found) == 18
    (first, clean), (second, corrupted) = found.groups
    assert [*first, *second] == list(range(18))
    assert torch.equal(clean, x)
    torch.testing.assert_close(corrupted[::2], corrupt(x[::2] / 255, "darker-10%"))
    torch.testing.assert_close(corrupted[1::2], corrupt(x[1::2] / 255, "blur-1"))
    assert len(Samples.of(x).with_corrupted([])) == 9


def test_images_of_several_sizes_are_corrupted_by_their_positions():
    images = [noise(1)[0] if k % 3 else np.zeros((16, 16), np.uint8) for k in range(8)]
    found = Samples.of_images(images).with_corrupted(["brighter-10%", "darker-10%"])
    places = []
    for group, x in found.groups[2:]:
        places += group.tolist()
        for place, image in zip(group - 8, x, strict=True):
            clean = torch.from_numpy(images[place])[None] / 255
            torch.testing.assert_close(image, corrupt(clean[None], ["brighter-10%", "darker-10%"][place % 2])[0])
    assert sorted(places) == list(range(8, 16))
