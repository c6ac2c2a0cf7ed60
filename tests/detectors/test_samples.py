"""Tests groups of images of one size."""

import threading
import time

import numpy as np
import pytest
import torch
from helpers import noise

from pixeldefend.detectors.samples import Samples
from pixeldefend.errors import ImageError
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


def test_copies_have_one_key_whatever_their_type():
    x = noise(3)
    keys = Samples.of_images(list(x)).keys()
    assert len(set(keys)) == 3
    assert Samples.of_images(x).keys() == keys  # floating point
    assert Samples.of(torch.from_numpy(x)[:, None] / 255).changed(lambda x: x.clone().requires_grad_()).keys() == keys


def test_real_numbers_keep_keys_of_their_own():
    x = torch.rand(5, 1, 4, 4) * 1e-3 - 2
    assert len(set(Samples.of(x).keys())) == 5


def test_a_malformed_image_of_many_is_named():
    with pytest.raises(ImageError, match="image 1 of 2: "):
        Samples.of_images([noise(1)[0], np.zeros((8, 8), int)])


def test_threads_share_one_bound_of_memory(monkeypatch):
    monkeypatch.setattr("pixeldefend.detectors.samples.PIXELS_AT_ONCE", 256)
    before, at_once, lock = torch.get_num_threads(), [0, 0], threading.Lock()

    def score(x):
        with lock:
            at_once[0] += x[0].numel() * len(x)
            at_once[1] = max(at_once)
        time.sleep(0.002)  # long enough for the others to begin, too
        with lock:
            at_once[0] -= x[0].numel() * len(x)
        return (x.flatten(1).sum(1).numpy(),)

    torch.set_num_threads(8)
    try:
        Samples.of_images(noise(16)).each(score, 16, threads=True)
    finally:
        torch.set_num_threads(before)
    assert 64 <= at_once[1] <= 256


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
