"""Small densities and images that they drew."""

import pytest
import torch
from helpers import randomised

from pixeldefend.densities import Density, PixelCNNPlusPlus
from pixeldefend.scores import Evidence, LearnedScore


@pytest.fixture
def fitted():
    """A function that fits a statistic, if it learns, on what a density says about images."""

    def fit(statistic, density, x):
        if isinstance(statistic, LearnedScore):
            inputs = [x, *(copy(x) for copy in statistic.copies)]
            with torch.inference_mode():
                statistic.fit(*(statistic.features(Evidence(density, images)) for images in inputs))
        return statistic

    return fit


@pytest.fixture
def evidence_of():
    """A function that makes evidence of given parts."""

    class Given(Evidence):
        def __init__(self, **parts):
            vars(self).update(parts)

    return Given


@pytest.fixture(scope="session")
def density() -> Density:
    torch.manual_seed(0)
    density = PixelCNNPlusPlus((1, 8, 8), filters=4, blocks=1, scales=2, mixtures=2)
    with torch.no_grad():  # narrow: its entropies are below 1 nat
        density.net.last.weight[4:] *= 5
        density.net.last.bias[4:] = -6.5
        density.net.last.bias[0] = 6
    return randomised(density, scale=0.05)


@pytest.fixture(scope="session")
def samples(density):
    return density.sample(300, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def colour() -> Density:
    torch.manual_seed(0)
    return randomised(PixelCNNPlusPlus((3, 8, 8), filters=4, blocks=1, scales=1, mixtures=2), scale=0.05)


@pytest.fixture(scope="session")
def colourful(colour):
    return colour.sample(100, generator=torch.Generator().manual_seed(0))
