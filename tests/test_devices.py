"""The devices that models run on."""

import pytest
import torch
from torch import nn

from pixeldefend.devices import check_device, device_of
from pixeldefend.errors import ParameterError


def test_the_device_of_a_module_is_that_of_its_weights():
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_devices_that_can_be_used():
    assert check_device("cpu") == torch.device("cpu")
    assert check_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_devices_that_cannot_be_used_are_named(name):
    with pytest.raises(ParameterError, match=repr(name)):
        check_device(name)
