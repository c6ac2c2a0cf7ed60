"""The compiled moments of a mixture of logistics are those of the table of all masses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixeldefend.densities import kernels
from pixeldefend.densities.logistic_mixture import DiscretizedLogisticMixture

pytest.importorskip("numba", reason="the extra 'fast' is not installed")


def check(logits, means, log_scales):
    """Compares the kernel in float32 with the table in float64."""
    mixture = DiscretizedLogisticMixture(logits.double(), means.double(), log_scales.double(), validate_args=False)
    single = DiscretizedLogisticMixture(logits, means, log_scales, validate_args=False)
    assert kernels.can_run(single.logits, single.means, single.log_scales)
    for found, expected in zip(single.surprisal_moments(), mixture.surprisal_moments(), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-3)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 10).flatmap(
        lambda k: st.lists(
            st.tuples(st.floats(-200, 200, width=32), st.floats(-3, 3, width=32), st.floats(-9, 9, width=32)),
            min_size=k,
            max_size=k,
        )
    )
)
def test_any_mixture(components):
    check(*(t.contiguous() for t in torch.tensor([components]).unbind(-1)))


@pytest.mark.parametrize("log_scale", [-7.0, -5.0, -3.0, 0.0, 3.0, 7.0])
def test_one_logistic_at_every_value_and_beyond(log_scale):
    means = torch.linspace(-1.5, 1.5, 1001)[:, None]
    check(torch.zeros(1001, 1), means, torch.full((1001, 1), log_scale))


def test_components_that_are_far_away_or_have_no_weight():
    for mean in (-1e6, 1e6, -math.inf, math.inf):
        check(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.1, mean]]), torch.tensor([[-2.0, -7.0]]))
    check(torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.1, 0.9]]), torch.tensor([[-2.0, -7.0]]))


def test_real_predictions_in_any_shape_on_several_threads(tiny_density, monkeypatch):
    monkeypatch.setattr(kernels, "SITES_A_THREAD", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shape = tiny_density.event_shape
    conditionals = tiny_density.conditionals(torch.randint(0, 256, (5, *shape)) / 255)
    detached = [t.detach() for t in (conditionals.logits, conditionals.means, conditionals.log_scales)]
    check(*detached)
    with torch.no_grad():
        made = DiscretizedLogisticMixture(*detached)
        assert [moment.shape for moment in made.surprisal_moments()] == [(5, *shape)] * 2
        nothing = DiscretizedLogisticMixture(*(t[:0] for t in detached), validate_args=False)
        assert [moment.shape for moment in nothing.surprisal_moments()] == [(0, *shape)] * 2


def test_nan_stays_nan():
    parameters = torch.zeros(3, 3, 2)
    for i in range(3):
        parameters[i, i, 1] = math.nan
    parameters = torch.cat([parameters, torch.zeros(3, 1, 2)], 1)
    mean, variance = kernels.surprisal_moments(*parameters)
    assert torch.isnan(mean).tolist() == torch.isnan(variance).tolist() == [True, True, True, False]


def test_the_table_is_for_gradients_and_for_double_precision():
    parameters = torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2, requires_grad=True)
    assert not kernels.can_run(*parameters)
    mean, variance = DiscretizedLogisticMixture(*parameters).surprisal_moments()
    (mean + variance).sum().backward()
    assert (parameters[2].grad != 0).all()
    with torch.no_grad():
        assert kernels.can_run(*parameters)
    assert not kernels.can_run(*(t.detach().double() for t in parameters))


def test_without_numba_and_without_a_folder_for_compiled_code(monkeypatch):
    monkeypatch.setattr(kernels, "has_numba", lambda: False)
    assert not kernels.can_run(torch.zeros(1))

    import numba

    compiled = numba.njit

    def unwritable(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compiled(**options)

    monkeypatch.setattr(numba, "njit", unwritable)
    kernels._kernel.cache_clear()
    mean, _ = kernels.surprisal_moments(torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), 7.0))
    kernels._kernel.cache_clear()
    assert mean.item() == pytest.approx(math.log(2), abs=0.02)  # half of the mass at either end
