import pytest
import torch
from helpers import clean_images

from pixeldefend.densities import PixelCNNPlusPlus
from pixeldefend.detector import Detector


@pytest.fixture(scope="session")
def tiny_density() -> PixelCNNPlusPlus:
    torch.manual_seed(0)
    return PixelCNNPlusPlus((1, 8, 8), filters=4, blocks=1, scales=1, mixtures=2).eval()


@pytest.fixture(scope="session")
def tiny_detector(tiny_density: PixelCNNPlusPlus) -> Detector:
    return Detector(tiny_density, fpr=0.05).fit(clean_images(99))
