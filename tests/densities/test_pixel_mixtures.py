"""The compiled mixtures of whole pixels are those that torch computes."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixeldefend.densities import kernels
from pixeldefend.densities.heads import PixelLogisticMixtureHead

pytest.importorskip("numba", reason="the extra 'fast' is not installed")


def both(channels, mixtures, parameters, x):
    """Returns (logits, means, log_scales, log p), by the kernel in float32 and by torch in float64."""
    head = PixelLogisticMixtureHead(channels, mixtures)
    found = []
    for given_parameters, values in ((parameters, x), (parameters.double(), x.double())):
        assert kernels.can_run(given_parameters) == (given_parameters.dtype == torch.float32)
        mixture = head(given_parameters, values)
        found.append((mixture.logits, mixture.means, mixture.log_scales, mixture.log_prob(values)))
    return found


def check(channels, mixtures, parameters, x, **tolerances):
    """Compares both where the masses are not so extreme that float32 cannot represent their differences."""
    single, double = both(channels, mixtures, parameters, x)
    for name, ours, theirs in zip(("logits", "means", "log_scales", "log_prob"), single, double, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        torch.testing.assert_close(
            ours.double(), theirs, **({"atol": 2e-4, "rtol": 1e-4} | tolerances), msg=lambda m, n=name: f"{n}: {m}"
        )


def random_parameters(channels, mixtures, shape, spread, seed=0):
    outputs = PixelLogisticMixtureHead(channels, mixtures).outputs
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape[0], outputs, *shape[1:], generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mixtures", [1, 4, 10])
def test_random_pixels_on_the_grid(channels, mixtures):
    shape = (3, 7, 61)  # not a multiple of what is computed together
    x = torch.randint(0, 256, (3, channels, 7, 61), generator=torch.Generator().manual_seed(1)) / 255
    check(channels, mixtures, random_parameters(channels, mixtures, shape, 1.0), x)


@pytest.mark.parametrize("value", [0, 1, 254, 255, 0.3, 0.99, 254.4, 254.9])
def test_values_near_the_ends_and_off_the_grid(value):
    x = torch.full((1, 3, 4, 5), value / 255)
    check(3, 4, random_parameters(3, 4, (1, 4, 5), 1.5), x, atol=1e-3)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-50, 50, width=32), st.floats(-2, 2, width=32), st.floats(-9, 9, width=32)),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 255),
)
def test_any_mixture_of_a_grey_pixel(components, value):
    parameters = torch.tensor(components).T.reshape(1, -1, 1, 1)
    # scales of exp(-7) make a mean's rounding error 1,000 times as large
    check(1, len(components), parameters, torch.full((1, 1, 1, 1), value / 255), atol=2e-2, rtol=1e-3)


def noted_pool(parts):
    """A pool that notes what it is asked to do."""

    class Noted(ThreadPoolExecutor):
        def map(self, function, given):
            parts.extend(given)
            return super().map(function, given)

    return Noted


def test_several_threads_and_no_pixels(monkeypatch):
    parameters, x = random_parameters(3, 2, (2, 16, 16), 1.0), torch.rand(2, 3, 16, 16)
    head = PixelLogisticMixtureHead(3, 2)
    one = head(parameters, x).log_prob(x)
    monkeypatch.setattr(kernels, "SITES_A_THREAD", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    parts = []
    monkeypatch.setattr(kernels, "ThreadPoolExecutor", noted_pool(parts))
    torch.testing.assert_close(head(parameters, x).log_prob(x), one)
    assert [(part.start, part.stop) for part in parts] == [(0, 170), (170, 341), (341, 512)]
    assert head(parameters[:0], x[:0]).log_prob(x[:0]).shape == (0, 3, 16, 16)


def test_nan_stays_nan():
    head = PixelLogisticMixtureHead(3, 2)
    clean = random_parameters(3, 2, (1, 1, head.outputs + 1), 1.0)
    for plane in range(head.outputs):
        clean[0, plane, 0, plane] = math.nan  # one parameter of one pixel
    x = torch.rand(1, 3, 1, head.outputs + 1)
    broken = head(clean, x).log_prob(x).isnan().any(1)[0, 0]
    assert broken[:-1].all()
    assert not broken[-1]


def test_gradients_are_torchs():
    head = PixelLogisticMixtureHead(3, 2)
    parameters = random_parameters(3, 2, (1, 4, 4), 1.0).requires_grad_()
    x = torch.rand(1, 3, 4, 4)
    log_prob = head(parameters, x).log_prob(x)
    log_prob.sum().backward()
    assert parameters.grad.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(head(parameters, x).log_prob(x), log_prob, atol=1e-4, rtol=1e-4)
