"""Tests TI-FGSM."""

import pytest
import torch
from helpers import Brightness
from torch import nn

from pixeldefend.attacks import Attack, craft
from pixeldefend.attacks.presets import MI_FGSM, TI_FGSM
from pixeldefend.errors import ParameterError


class OnePixel(nn.Module):
    """Sees only the pixel in row 8 and column 10."""

    def forward(self, x):
        pixel = x[:, :, 8, 10].mean(1)
        return torch.stack([pixel, 1 - pixel], 1)


def test_the_gradient_of_one_pixel_reaches_its_neighbours():
    x, y = torch.full((2, 3, 20, 24), 100, dtype=torch.uint8), torch.tensor([1, 1])
    moved = craft(OnePixel(), x, y, Attack(TI_FGSM, 4 / 255, {"sigma": 1.0})).images.int() - 100
    wanted = torch.zeros(20, 24, dtype=torch.int)
    wanted[5:12, 7:14] = 4  # three standard deviations
    assert (moved == wanted).all()


def test_without_smoothing_it_is_mi_fgsm(near_the_boundary):
    mi = Attack(MI_FGSM, 4 / 255, {"steps": 10})
    ti = Attack(TI_FGSM, 4 / 255, {"sigma": 0.05})
    mine, theirs = (craft(Brightness(), *near_the_boundary, attack).images for attack in (ti, mi))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("settings", [{"sigma": 0.0}, {"steps": 0}, {"momentum": -0.1}])
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ParameterError, match=f"{name} must be"):
        Attack(TI_FGSM, 4 / 255, settings).make()
