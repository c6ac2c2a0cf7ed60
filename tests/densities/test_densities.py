"""One contract for every entry of DENSITIES."""

import itertools
import math

import pytest
import torch
from helpers import SMALL, dependence, randomised, site_order, values

from pixeldefend import densities
from pixeldefend.densities import DENSITIES, Autoregressive, Density, build
from pixeldefend.serialization import load_tensors, save_tensors

CASES = [
    pytest.param({"model": name, **case}, id=f"{name}-{i}") for name in DENSITIES for i, case in enumerate(SMALL[name])
]
# PixelCNN++ has no such small events: test_pixelcnnpp.py
TINY = [
    pytest.param({"model": name, **case, **event}, id=f"{name}-{i}-{event['event_shape']}")
    for name in DENSITIES
    for i, case in enumerate(SMALL[name])
    if name != "pixelcnnpp"
    for event in (
        [dict(event_shape=(1, 3, 3), head="bernoulli"), dict(event_shape=(2, 2, 2), head="bernoulli")]
        + [dict(event_shape=(1, 2, 2), head="categorical", levels=3)]
        + ([dict(event_shape=(7,), head="bernoulli")] if len(case["event_shape"]) == 1 else [])
    )
    if case.get("filters", 0) % event["event_shape"][0] == 0
]


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


@pytest.mark.parametrize("config", [case for case in TINY if "-0-" in case.id])
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


@pytest.mark.parametrize("name", [n for n in DENSITIES if n not in ("pixelcnn", "row_lstm", "wavenet", "pixelcnnpp")])
def test_every_site_sees_every_site_before_it(name):
    """PixelCNN's blind spot, Row LSTM's triangle, WaveNet's receptive field: in test_pixelcnn, test_pixelrnn and
    test_sequences. A PixelCNN++ deep enough: test_pixelcnnpp."""
    for case in SMALL[name]:
        density = made({"model": name, **case}, scale=0.2).double()
        inputs = [
            values(density, 1, off_grid=True, seed=seed).double() for seed in range(3)
        ]  # a relu may be off at one
        order = site_order(density)
        for site in density.sites(density.event_shape)[1:]:
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


@pytest.mark.parametrize("config", CASES)
def test_samples_do_not_depend_on_how_they_are_computed(config):
    density = made(config, scale=0.1).double()
    once, again, cached, fixed_point, without = (
        density.sample(3, generator=torch.Generator().manual_seed(3), method=method)
        for method in ("auto", "auto", "cached", "fixed_point", "sequential")
    )
    torch.testing.assert_close(cached, without, rtol=0, atol=1e-9)
    torch.testing.assert_close(fixed_point, without, rtol=0, atol=1e-9)
    assert once.shape == (3, *density.event_shape)
    assert torch.equal(once, again)
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


@pytest.mark.parametrize("name", [name for name in DENSITIES if name != "rnade"])
def test_low_temperature_samples_are_the_most_probable_values(name):
    density = made({"model": name, **SMALL[name][0]})
    cold = density.sample(2, temperature=1e-4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cold[0], cold[1])
    likeliest = density.conditionals(cold).pmf().argmax(-1) / (density.levels - 1)
    assert ((cold - likeliest).abs() < 1e-6).double().mean() > 0.99  # but for ties


@pytest.mark.parametrize("name", DENSITIES)
def test_what_cannot_be_sampled_is_refused(name):
    density = made({"model": name, **SMALL[name][0]})
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        density.sample(1, temperature=0)
    with pytest.raises(ValueError, match=r"given must be \(1 or 2, k\), got \(3, 1\)"):
        density.sample(2, given=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="given must be finite"):
        density.sample(1, given=torch.full((1, 1), math.nan))
    with pytest.raises(ValueError, match="given holds 10000 values"):
        density.sample(1, given=torch.zeros(1, 10000))
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        density.sample(-1)


@pytest.mark.parametrize("method", ["auto", "fixed_point", "cached", "sequential"])
@pytest.mark.parametrize(
    "config",
    [
        dict(model="pixelcnn", event_shape=(1, 4, 4), filters=4, blocks=1, head="normals"),
        dict(model="rnade", event_shape=(4,), hidden=3),
    ],
    ids=["pixelcnn", "rnade"],
)
def test_a_density_that_gives_nan_is_not_sampled_for_ever(config, method):
    density = made(config)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match="the density gives NaN: it has diverged"):
        density.sample(2, method=method)


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
    density = build({"model": name, **SMALL[name][0]})
    x = values(density, 1).repeat(16, *[1] * len(density.event_shape))
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
    density = made({"model": name, **SMALL[name][-1]}, scale=0.1).to(dtype)
    x = values(density, 2).to(dtype)
    assert density.log_prob(x).dtype == dtype
    assert density.sample(1).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        half = density.log_prob(x)
    torch.testing.assert_close(half.double(), density.log_prob(x).double(), rtol=0.05, atol=0.5)


ODD = [(1, 1, 1), (1, 1, 7), (1, 7, 1), (3, 5, 2), (1, 30, 31)]


@pytest.mark.parametrize("name", [name for name in DENSITIES if name != "pixelcnnpp"])
@pytest.mark.parametrize("shape", ODD)
def test_images_of_odd_sizes(name, shape):
    case = {**SMALL[name][0], "event_shape": shape}
    if "filters" in case:
        case["filters"] = 6
    density = made({"model": name, **case}, scale=0.05)
    assert torch.isfinite(density.log_prob(values(density, 2))).all()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DENSITIES)
def test_bad_events_are_refused(name):
    density = made({"model": name, **SMALL[name][0]})
    x = values(density, 2)
    with pytest.raises(ValueError, match=r"events of shape .* got x of shape \(2, 1, 2, 3\)"):
        density.log_prob(torch.zeros(2, 1, 2, 3))
    with pytest.raises(ValueError, match=r"finite, got \d+ NaN"):
        density.log_prob(torch.full_like(x, math.nan))
    with pytest.raises(ValueError, match=r"floating point, got torch.uint8"):
        density.log_prob(x.to(torch.uint8))
    if density.levels is not None:
        with pytest.raises(ValueError, match=r"\[0, 1\], got min .* and max 1.5"):
            density.log_prob(torch.full_like(x, 1.5))
        with pytest.raises(ValueError, match=r"\[0, 1\], got min -0.1"):
            density.log_prob(torch.full_like(x, -0.1))


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown density 'nope'; there are: fvsbn, nade"):
        build({"model": "nope"})
    for name in DENSITIES:
        with pytest.raises(ValueError, match=f"cannot make {name}.*colour"):
            build({"model": name, **SMALL[name][0], "colour": 1})
        with pytest.raises(ValueError, match=r"head must be one of .*, got 'gaussian'"):
            build({"model": name, **SMALL[name][0], "head": "gaussian"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(model="nade", event_shape=(4,), hidden=0), "hidden must be at least 1, got 0"),
        (dict(model="eonade", event_shape=(4,), layers=0), "layers must be at least 1, got 500 and 0"),
        (dict(model="eonade", event_shape=(4,), ordering=-1), "ordering must be at least 0, got -1"),
        (dict(model="made", event_shape=(4,), hidden=[]), r"hidden must be one or more .* got \[\]"),
        (dict(model="made", event_shape=(4,), masks=0), "masks must be at least 1, got 0"),
        (dict(model="made", event_shape=(4,), masks=2, ordering=2), "ordering must be below 2, .* got 2"),
        *(
            (dict(model=name, event_shape=shape), rf"event_shape must be \(D,\) or \(C, H, W\), .* got \({got}\)")
            for name in ("fvsbn", "nade", "eonade", "rnade", "made", "rnn", "wavenet")
            for shape, got in [((0,), "0,"), ((-3,), "-3,"), ((), ""), ((1, -2, 3), "1, -2, 3")]
        ),
        (dict(model="fvsbn", event_shape=(4,), head="categorical", levels=1), "levels must be at least 2"),
        (dict(model="rnn", event_shape=(4,), cell="lsd"), "cell must be one of rnn, gru, lstm, got 'lsd'"),
        (dict(model="wavenet", event_shape=(4,), depth=0), "depth must be at least 1, got 0"),
        (dict(model="pixelcnnpp", event_shape=(4,)), r"event_shape must be \(1 or 3, H >= 8, W >= 8\), got \(4,\)"),
        (dict(model="pixelcnnpp", event_shape=(1, 7, 28)), "event_shape"),
        (dict(model="pixelcnnpp", event_shape=(2, 8, 8)), "event_shape"),
        (dict(model="pixelcnnpp", event_shape=(1, 8, 8), scales=4), "scales must be 1, 2 or 3, got 4"),
        (dict(model="pixelcnn", event_shape=(4,)), r"event_shape must be \(C, H, W\)"),
        (dict(model="pixelcnn", event_shape=(3, 8, 8), filters=4), "filters must be a multiple of the 3 channels"),
        (dict(model="gated_pixelcnn", event_shape=(3, 8, 8), filters=4), "multiple of the 3 channels, got 4"),
        (dict(model="row_lstm", event_shape=(4,)), r"event_shape must be \(C, H, W\)"),
        (dict(model="diagonal_bilstm", event_shape=(3, 8, 8), filters=4), "multiple of the 3 channels, got 4"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build(config)


def test_weights_of_another_density_are_refused_by_the_name_of_the_file(tmp_path):
    build({"model": "nade", "event_shape": (4,), "hidden": 3}).save(tmp_path / "d.safetensors")
    tensors, meta = load_tensors(tmp_path / "d.safetensors")
    save_tensors(tmp_path / "d.safetensors", tensors, {**meta, "density": {**meta["density"], "hidden": 4}})
    with pytest.raises(ValueError, match=r"d\.safetensors: its weights do not fit its density"):
        densities.load(tmp_path / "d.safetensors")


def test_a_file_of_another_kind_is_refused(tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "detector.safetensors")
    with pytest.raises(ValueError, match="holds a detector, not a density"):
        densities.load(tmp_path / "detector.safetensors")
