"""A folder of small photographs, and a classifier and a detector of images of any size."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pixeldefend.detectors import FunctionDetector
from pixeldefend.imagenet import ImageNetClassifier, resized_and_cropped

SIDE = 16


class Warmth(nn.Module):
    """Class 0 if the image is redder than it is blue, else class 1; class 2 is never the highest."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        red, _, blue = x.mean((2, 3)).unbind(1)
        return torch.stack([red - blue, blue - red, torch.zeros_like(red) - 1], 1) * self.scale


def roughness(x):
    """The mean absolute difference of neighbours in a row."""
    return (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth colour image, everywhere a little redder than it is blue if the seed is even, else bluer."""
    small = np.random.RandomState(seed).uniform(60, 190, (4, 4, 3))
    small[..., 2] = small[..., 0] - 3 * (-1) ** seed
    return np.asarray(Image.fromarray(small.round().astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def classifier() -> ImageNetClassifier:
    made = ImageNetClassifier(Warmth(), input_size=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    made.wordnet_ids, made.class_names = ["n00000001", "n00000002", "n00000003"], ["warm", "cold", "neither"]
    return made


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """12 photographs of two sizes, the labels in their names, and a file that is no image."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(12):
        image = photograph(i, *((100, 110) if i % 3 else (120, 100)))
        Image.fromarray(image).save(folder / f"n0000000{1 + i % 2}_{i}.png")
    (folder / "n00000001_damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder


@pytest.fixture(scope="session")
def detector() -> FunctionDetector:
    clean = [photograph(1000 + i, 100, 110) for i in range(120)]
    crops = [
        (255 * resized_and_cropped(torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 255, SIDE)).round().byte()[0]
        for x in clean
    ]
    return FunctionDetector(roughness, name="roughness", fpr=0.05).fit(crops)
