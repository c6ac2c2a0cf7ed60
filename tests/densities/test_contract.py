"""One contract for every entry of DENSITIES. A density that is added there is tested without a line here."""

import itertools
import math

import pytest
import torch
from helpers import dependence, randomised, site_order, slow_if_large, small_configs, values

from pixeldefend import densities
from pixeldefend.densities import DENSITIES, Autoregressive, Density, build
from pixeldefend.errors import ParameterError

ENUMERABLE = 600  # events of which all probabilities are summed


def small(name: str, which: int = 0) -> dict:
    return {"model": name, **small_configs(name)[which]}


def tiny(name: str) -> list[dict]:
    """Configurations whose events can be enumerated."""
    density, configs = DENSITIES[name], []
    for case in small_configs(name):
        for shape, head, levels in TINY_EVENTS:
            if len(shape) != len(case["event_shape"]) or min(shape[1:], default=density.min_side) < density.min_side:
                continue
            if head in density.heads and case.get("filters", 0) % shape[0] == 0:
                configs.append({"model": name, **case, "event_shape": shape, "head": head, "levels": levels})
        made = build({"model": name, **case})
        if made.levels is not None and made.levels ** math.prod(made.event_shape) <= ENUMERABLE:
            configs.append({"model": name, **case})
    return configs


TINY_EVENTS = [
    ((1, 3, 3), "bernoulli", 2),
    ((2, 2, 2), "bernoulli", 2),
    ((1, 2, 2), "categorical", 3),
    ((7,), "bernoulli", 2),
]
CASES = [
    pytest.param({"model": name, **case}, id=f"{name}-{i}")
    for name in DENSITIES
    for i, case in enumerate(small_configs(name))
]
TINY = [
    pytest.param(config, id=f"{name}-{i}-{config['event_shape']}")
    for name in DENSITIES
    for i, config in enumerate(tiny(name))
]
FIRST_TINY = [pytest.param(configs[0], id=name) for name in DENSITIES if (configs := tiny(name))]


def made(config: dict, scale: float = 0.3) -> Autoregressive:
    density = build(config)
    assert isinstance(density, Autoregressive)
    return randomised(density, scale=scale)


def every_event(density: Density) -> torch.Tensor:
    """(levels^D, *event)."""
    levels, shape = density.levels, density.event_shape
    grid = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    events = list(itertools.product(grid.tolist(), repeat=math.prod(shape)))
    return torch.tensor(events, dtype=torch.float64).reshape(-1, *shape)


# -- the mathematics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", TINY)
def test_probabilities_of_all_events_sum_to_one(config):
    density = made(config).double()
    with torch.no_grad():
        total = density.log_prob(every_event(density)).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("config", FIRST_TINY)
def test_frequencies_of_samples_match_the_probabilities(config):
    density = made(config, scale=0.2).double()
    events = every_event(density)
    n = 3_000
    x = density.sample(n, generator=torch.Generator().manual_seed(0))
    base = density.levels ** torch.arange(events[0].numel() - 1, -1, -1)
    counts = torch.bincount(((x.flatten(1) * (density.levels - 1)).round().long() * base).sum(1), minlength=len(events))
    with torch.no_grad():
        expected = n * density.log_prob(events).exp()
    # Pearson's statistic has the mean of a chi-squared variable exactly, and a tail that Chebyshev bounds
    likely = expected > 5
    statistic = ((counts - expected).square() / expected)[likely].sum()
    degrees = int(likely.sum())
    assert abs(statistic - degrees) < 7 * math.sqrt(2 * degrees + 1)
    rare = expected[~likely].sum().item()
    assert abs(counts[~likely].sum().item() - rare) < 7 * math.sqrt(1 + rare)


@pytest.mark.parametrize("config", CASES)
def test_a_conditional_depends_on_no_site_that_comes_later(config):
    density = made(config).double()
    x = values(density, 1, off_grid=True).double()
    sites = density.sites(density.event_shape)
    order = site_order(density)
    for site in [sites[0], sites[1], sites[len(sites) // 3], sites[len(sites) // 2], sites[-1]]:
        gradient = dependence(density, x, site)
        assert (gradient[order >= order[site]] == 0).all(), "depends on itself or on what comes later"
        assert site == sites[0] or (gradient[order < order[site]] != 0).any(), "depends on nothing"


@pytest.mark.parametrize("name", [name for name, density in DENSITIES.items() if density.full_context])
def test_every_site_sees_every_site_before_it(name):
    """What the others see is tested where they are: a blind spot, a triangle, a receptive field."""
    for case in small_configs(name):
        density = made({"model": name, **case}, scale=0.2).double()
        # a relu may be off at one input
        inputs = [values(density, 1, off_grid=True, seed=seed).double() for seed in range(3)]
        order = site_order(density)
        sites = density.sites(density.event_shape)
        for site in [*sites[1::4], sites[-1]]:
            gradient = sum(dependence(density, x, site) for x in inputs)
            missed = [tuple(i.tolist()) for i in ((gradient == 0) & (order < order[site])).nonzero()]
            assert not missed, f"{site} does not see {missed}"


@pytest.mark.parametrize("config", CASES)
def test_log_prob_is_the_sum_of_its_map_and_bits_per_dim_follows(config):
    density = made(config)
    x = values(density, 3)
    log_prob, by_site = density.log_prob(x), density.log_prob_map(x)
    assert by_site.shape == x.shape
    torch.testing.assert_close(log_prob, by_site.flatten(1).sum(1))
    if density.levels is not None:
        assert (by_site <= 1e-6).all()
        torch.testing.assert_close(density.bits_per_dim(x), -log_prob / (x[0].numel() * math.log(2)))


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [slow_if_large(case.values[0], case.id) for case in CASES])
def test_samples_do_not_depend_on_how_they_are_computed(config):
    density = made(config, scale=0.1).double()
    once, cached, fixed_point, without = (
        density.sample(3, generator=torch.Generator().manual_seed(3), method=method)
        for method in ("auto", "cached", "fixed_point", "sequential")
    )
    torch.testing.assert_close(cached, without, rtol=0, atol=1e-9)
    torch.testing.assert_close(fixed_point, without, rtol=0, atol=1e-9)
    assert once.shape == (3, *density.event_shape)
    assert torch.equal(once, cached) or torch.equal(once, fixed_point)
    torch.testing.assert_close(once, without, rtol=0, atol=1e-9)
    assert not torch.equal(once[0], once[1])
    if density.levels is not None:
        on_grid = (once * (density.levels - 1)).round() / (density.levels - 1)
        torch.testing.assert_close(once, on_grid, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", CASES)
def test_sampling_goes_on_from_what_is_given(config):
    density = made(config, scale=0.1)
    sites = density.sites(density.event_shape)
    given = values(density, 1).flatten(1)[:, :5].contiguous()
    x = density.sample(2, given=given, generator=torch.Generator().manual_seed(0))
    for k, site in enumerate(sites[:5]):
        assert (x[(slice(None), *site)] == given[0, k]).all()


@pytest.mark.parametrize("name", DENSITIES)
def test_low_temperature_samples_are_the_most_probable_values(name):
    density = made(small(name))
    if density.levels is None:
        with pytest.raises(ParameterError, match="temperature 1"):
            density.sample(2, temperature=1e-4)
        return
    cold = density.sample(2, temperature=1e-4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cold[0], cold[1])
    likeliest = density.conditionals(cold).pmf().argmax(-1) / (density.levels - 1)
    assert ((cold - likeliest).abs() < 1e-6).double().mean() > 0.99  # but for ties


# -- use ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CASES)
def test_an_event_is_scored_alone_as_in_a_batch(config):
    density = made(config).double()
    x = values(density, 5).double()
    torch.testing.assert_close(density.log_prob(x)[:1], density.log_prob(x[:1]))
    assert density.log_prob(x[:0]).shape == (0,)


@pytest.mark.parametrize("config", CASES)
def test_every_parameter_gets_a_gradient(config):
    density = made(config).train()
    torch.manual_seed(0)
    for _ in range(3):  # some objectives look at a part of x
        density.objective(values(density, 8)).sum().backward()
    for name, parameter in density.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", DENSITIES)
def test_training_makes_the_data_likelier(name):
    torch.manual_seed(0)
    density = build(small(name))
    x = values(density, 1).repeat(8, *[1] * len(density.event_shape))
    before = density.log_prob(x).mean().item()
    optimizer = torch.optim.Adam(density.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        density.objective(x).mean().backward()
        optimizer.step()
    assert density.log_prob(x).mean().item() > before + 1


@pytest.mark.parametrize("config", CASES)
def test_save_and_load(config, tmp_path):
    density = made(config)
    x = values(density, 2)
    density.save(tmp_path / "d.safetensors", recipe={"epochs": 1})
    loaded = densities.load(tmp_path / "d.safetensors")
    assert loaded.config == density.config
    torch.testing.assert_close(loaded.log_prob(x), density.log_prob(x))


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(name, dtype):
    density = made(small(name, -1), scale=0.1).to(dtype)
    x = values(density, 2).to(dtype)
    assert density.log_prob(x).dtype == dtype
    assert density.sample(1).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        half = density.log_prob(x)
    torch.testing.assert_close(half.double(), density.log_prob(x).double(), rtol=0.05, atol=0.5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (1, 7, 1), (3, 5, 2), (1, 30, 31)])
@pytest.mark.parametrize("name", [name for name, density in DENSITIES.items() if density.min_side == 1])
def test_images_of_odd_sizes(name, shape):
    config = {**small(name), "event_shape": shape}
    if "filters" in config:
        config["filters"] = 6
    density = made(config, scale=0.05)
    assert torch.isfinite(density.log_prob(values(density, 2))).all()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DENSITIES)
def test_bad_events_are_refused(name):
    density = made(small(name))
    x = values(density, 2)
    with pytest.raises(ParameterError, match=r"\(2, 1, 2, 3\)"):
        density.log_prob(torch.zeros(2, 1, 2, 3))
    with pytest.raises(ParameterError, match="NaN"):
        density.log_prob(torch.full_like(x, math.nan))
    with pytest.raises(ParameterError, match="uint8"):
        density.log_prob(x.to(torch.uint8))
    if density.levels is not None:
        for value in (1.5, -0.1):
            with pytest.raises(ParameterError, match=str(value)):
                density.log_prob(torch.full_like(x, value))


@pytest.mark.parametrize("name", DENSITIES)
def test_unknown_arguments_are_refused(name):
    with pytest.raises(ParameterError, match=f"{name}.*colour"):
        build({**small(name), "colour": 1})
    if len(DENSITIES[name].heads) > 1:
        with pytest.raises(ParameterError, match="'gaussian'"):
            build({**small(name), "head": "gaussian"})
