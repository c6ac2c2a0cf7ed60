"""WaveNet: what it sees, and the mu-law code of audio."""

import math

import pytest
import torch
from helpers import dependence, randomised, values
from hypothesis import given
from hypothesis import strategies as st

from pixeldefend.densities import WaveNet
from pixeldefend.densities.wavenet import mu_law_decode, mu_law_encode
from pixeldefend.errors import ParameterError


def test_wavenet_sees_its_receptive_field_and_no_further():
    model = randomised(WaveNet((24,), residual=8, skip=24, depth=3, stacks=2, levels=5), scale=0.2).double()
    assert model.receptive_field == 15
    seen = sum(dependence(model, values(model, 1, off_grid=True, seed=seed).double(), (20,)) for seed in range(3)) != 0
    assert seen.nonzero().flatten().tolist() == list(range(5, 20))


def test_mu_law_is_finest_around_silence_and_the_identity_on_the_grid():
    grid = torch.arange(256) / 255
    torch.testing.assert_close(mu_law_encode(mu_law_decode(grid)), grid)
    steps = mu_law_decode(grid).diff()
    assert (steps > 0).all()
    assert steps[127] < steps[0] / 50
    assert mu_law_decode(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-1, 1])


@given(st.floats(-1, 1))
def test_mu_law_loses_little(amplitude):
    there_and_back = mu_law_decode(mu_law_encode(torch.tensor(amplitude, dtype=torch.float64))).item()
    assert abs(there_and_back - amplitude) <= math.log(256) / 255 * (abs(amplitude) + 1 / 255) * 1.1


def test_mu_law_refuses_what_is_too_loud():
    with pytest.raises(ParameterError, match=r"1.5"):
        mu_law_encode(torch.tensor([0.5, 1.5]))
