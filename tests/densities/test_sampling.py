"""What cannot be sampled. That all methods give the same samples is a part of the contract."""

import math

import pytest
import torch
from helpers import randomised, small_configs

from pixeldefend.densities import DENSITIES, build
from pixeldefend.errors import ModelError, ParameterError

METHODS = ["auto", "fixed_point", "cached", "sequential"]


@pytest.mark.parametrize("name", DENSITIES)
def test_what_cannot_be_sampled_is_refused(name):
    density = randomised(build({"model": name, **small_configs(name)[0]}))
    with pytest.raises(ParameterError, match=r"temperature .* 0"):
        density.sample(1, temperature=0)
    with pytest.raises(ParameterError, match=r"given .* \(3, 1\)"):
        density.sample(2, given=torch.zeros(3, 1))
    with pytest.raises(ParameterError, match=r"given .* finite"):
        density.sample(1, given=torch.full((1, 1), math.nan))
    with pytest.raises(ParameterError, match=r"given .* 10000"):
        density.sample(1, given=torch.zeros(1, 10000))
    with pytest.raises(ParameterError, match=r"n .* -1"):
        density.sample(-1)
    with pytest.raises(ParameterError, match="'magic'"):
        density.sample(1, method="magic")


@pytest.mark.parametrize("method", [method for method in METHODS if method != "compiled"])
@pytest.mark.parametrize(
    "config",
    [
        dict(model="pixelcnn", event_shape=(1, 4, 4), filters=4, blocks=1, head="normals"),
        dict(model="rnade", event_shape=(4,), hidden=3),
    ],
    ids=["pixelcnn", "rnade"],
)
def test_a_density_that_gives_nan_is_not_sampled_for_ever(config, method):
    density = build(config)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ModelError, match="NaN"):
        density.sample(2, method=method)
