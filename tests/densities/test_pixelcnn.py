"""What PixelCNN does not see."""

import pytest
from helpers import dependence, randomised, values

from pixeldefend.densities import PixelCNN, PixelCNNPlusPlus


@pytest.mark.parametrize(
    "density",
    [
        PixelCNN((1, 4, 10), filters=24, blocks=10, head="bernoulli"),
        PixelCNNPlusPlus((1, 8, 10), filters=24, blocks=6, scales=1, streams=1, mixtures=2),
    ],
    ids=["PixelCNN", "PixelCNN++ of one stream"],
)
def test_the_blind_spot_of_one_stream(density):
    """Above and to the right, d rows up and more than d + 2 columns away; a deep enough net sees all else."""
    density = randomised(density, scale=0.15).double()
    _, h, w = density.event_shape
    row, column = 3, 2
    seen = sum(
        dependence(density, values(density, 1, off_grid=True, seed=seed).double(), (0, row, column)) for seed in (0, 1)
    )[0]
    for i in range(h):
        for j in range(w):
            before = (i, j) < (row, column)
            blind = i < row and j - column > row - i + 2
            assert (seen[i, j] != 0) == (before and not blind), (i, j)
    assert (seen == 0)[:row].any(), "there is no blind spot to show"
