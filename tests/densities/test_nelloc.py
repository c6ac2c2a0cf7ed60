"""What is NeLLoC's own: its window, images of any size, and tiles."""

import math

import numpy as np
import pytest
import torch
from helpers import dependence, grid_images, noise, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pixeldefend import Detector, densities
from pixeldefend.cli.main import app
from pixeldefend.densities import NeLLoC, build, most_probable_within, nelloc
from pixeldefend.densities.nelloc import TILE
from pixeldefend.densities.sampling import solve
from pixeldefend.detectors.backends import on_backend
from pixeldefend.errors import ImageError, ParameterError
from pixeldefend.purification import purify
from pixeldefend.scores.profile import examine

SMALL = dict(rows=2, columns=3, width=8, layers=1, mixtures=2)


def made(channels: int = 3, *size: int, **settings) -> NeLLoC:
    return randomised(NeLLoC((channels, *(size or (None, None))), **{**SMALL, **settings}), scale=0.2)


# -- the mathematics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 1)])
def test_probabilities_of_all_images_of_two_pixels_sum_to_one(shape):
    density = made(1).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    with torch.no_grad():
        total = density.log_prob(torch.cartesian_prod(values, values).reshape(-1, *shape)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_each_conditional_of_a_colour_image_sums_to_one():
    density = made().double()
    x = grid_images(1, 3, 3, 4).double()
    for site in [(0, 0, 0), (1, 1, 2), (2, 2, 3)]:
        every = x.repeat(256, 1, 1, 1)
        every[(slice(None), *site)] = torch.arange(256, dtype=torch.float64) / 255
        with torch.no_grad():
            terms = density.log_prob_map(every)[(slice(None), *site)]
        assert terms.exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_sees_its_window_and_nothing_else(channels):
    density = made(channels).double()
    x = (0.1 + 0.8 * grid_images(1, channels, 6, 12)).double()
    row, column = 4, 5
    window = torch.zeros(6, 12, dtype=torch.bool)
    window[row - 2 : row, column - 3 : column + 4] = True
    window[row, column - 3 : column] = True
    for channel in range(channels):
        gradient = dependence(density, x, (channel, row, column))
        seen = window.repeat(channels, 1, 1)
        seen[:channel, row, column] = True
        assert torch.equal(gradient != 0, seen)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_added_to_the_image_moves_means_through_the_level_only(channels):
    """The net sees differences, so without `level` its means, relative to the left neighbour, ignore brightness."""
    density = made(channels).double()
    with torch.no_grad():
        density.net.window.level.zero_()
    x = grid_images(1, channels, 8, 12).double() / 2
    inside = (slice(None), slice(None), slice(2, None), slice(4, -3))  # where the window has no padding
    with torch.no_grad():
        dark, bright = density.conditionals(x), density.conditionals(x + 0.25)
    torch.testing.assert_close(bright.means[inside], dark.means[inside] + 0.5)
    torch.testing.assert_close(bright.log_scales[inside], dark.log_scales[inside])


def test_the_default_net_is_small():
    assert sum(parameter.numel() for parameter in NeLLoC((3, None, None)).parameters()) == 66_856


# -- images of any size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_an_open_density_is_the_same_at_every_size(channels, tmp_path):
    density = made(channels)
    density.save(tmp_path / "d.safetensors")
    again = densities.load(tmp_path / "d.safetensors")
    assert again.config == density.config
    assert again.event_shape == (channels, None, None)
    for size in [(1, 1), (1, 9), (9, 1), (5, 6)]:
        closed = build({**density.config, "event_shape": (channels, *size)})
        closed.load_state_dict(density.state_dict())
        x = grid_images(2, channels, *size)
        assert torch.equal(closed.log_prob(x), density.log_prob(x))
        assert torch.equal(again.log_prob(x), density.log_prob(x))
        drawn = density.sample(2, size=size, generator=torch.Generator().manual_seed(0))
        assert torch.equal(drawn, closed.sample(2, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("method", ["fixed_point", "cached"])
def test_open_samples_are_the_sequential_ones(method):
    density = made().double()
    drawn, expected = (
        density.sample(2, size=(3, 5), generator=torch.Generator().manual_seed(1), method=way)
        for way in (method, "sequential")
    )
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-9)


def test_images_of_any_size_are_purified():
    density = made().double()
    for size in [(2, 3), (4, 2)]:
        x = (255 * grid_images(1, 3, *size)).round().to(torch.uint8)
        ways = [purify(x, 9, density, method=method) for method in ("fixed_point", "cached", "sequential")]
        assert torch.equal(ways[0], ways[2])
        assert torch.equal(ways[1], ways[2])
        assert (ways[0].int() - x.int()).abs().max() <= 9
    with pytest.raises(ImageError):
        purify(grid_images(1, 3, 4, 4), 9, made(3, 5, 5))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 0, 8)])
def test_what_has_no_tiles_is_refused(shape):
    for method in (made().log_prob, made().log_prob_map):
        with torch.no_grad(), pytest.raises(ParameterError, match=r"\(N, C, H, W\)"):
            method(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 3, 0, 4), (2, 3, 4), (3, 4, 4)])
def test_images_of_other_shapes_are_refused(shape):
    with pytest.raises(ParameterError, match="None"):
        made().log_prob(torch.zeros(shape))


def test_a_size_is_needed_where_it_is_open_and_refused_where_it_is_not():
    with pytest.raises(ParameterError, match="size"):
        made().sample(1)
    with pytest.raises(ParameterError, match=r"\(0, 3\)"):
        made().sample(1, size=(0, 3))
    with pytest.raises(ParameterError, match=r"\(4, 4\)"):
        made(3, 5, 5).sample(1, size=(4, 4))
    with pytest.raises(ParameterError, match="length"):
        made().sample(1, length=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(event_shape=(2, 8, 8)), r"\(2, 8, 8\)"),
        (dict(event_shape=(3, 0, 8)), r"\(3, 0, 8\)"),
        (dict(event_shape=(3, None, 8)), r"\(3, None, 8\)"),
        (dict(event_shape=(None, None, None)), "None"),
        (dict(event_shape=(8,)), r"\(8,\)"),
        (dict(event_shape=(3, 8, 8), rows=0), "rows .* 0"),
        (dict(event_shape=(3, 8, 8), columns=0), "columns .* 0"),
        (dict(event_shape=(3, 8, 8), width=0), "width .* 0"),
        (dict(event_shape=(3, 8, 8), layers=-1), "layers .* -1"),
        (dict(event_shape=(3, 8, 8), mixtures=0), "mixtures .* 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        NeLLoC(**arguments)


# -- tiles -------------------------------------------------------------------------------------------------------------


SIDES = st.integers(1, 40) | st.integers(TILE - 2, TILE + 9)


@given(n=st.integers(0, 3), channels=st.sampled_from([1, 3]), height=SIDES, width=SIDES)
@settings(max_examples=15, deadline=None)
def test_tiles_say_what_the_whole_image_says(n, channels, height, width):
    density = made(channels, width=4).double()
    x = grid_images(n, channels, height, width).double()
    with torch.no_grad():
        whole = density.conditionals(x).log_prob(x)
        torch.testing.assert_close(density.log_prob_map(x), whole)
        torch.testing.assert_close(density.log_prob(x), whole.flatten(1).sum(1))


def test_every_site_is_in_one_tile():
    density = made(1)
    x = grid_images(3, 1, TILE + 1, TILE + 4)
    count = torch.zeros_like(x)
    with torch.no_grad():
        for where, conditionals, tile in density.tiles(x):
            assert conditionals.batch_shape == tile.shape
            assert tile.numel() <= TILE**2
            assert torch.equal(tile, x[where])
            count[where] += 1
    assert (count == 1).all()
    others = build({"model": "fvsbn", "event_shape": (7,), "head": "bernoulli"})
    rows = torch.ones(2, 7)
    ((where, conditionals, part),) = others.tiles(rows)
    assert torch.equal(rows[where], part)
    torch.testing.assert_close(conditionals.log_prob(part), others.log_prob_map(rows))


def test_tiles_of_8_bit_images_are_those_of_the_images():
    density = made()
    x = (255 * grid_images(1, 3, 9, TILE + 2)).round().to(torch.uint8)
    with torch.no_grad():
        for (_, ours, tile), (_, theirs, same) in zip(density.tiles(x), density.tiles(x / 255), strict=True):
            assert torch.equal(tile, same)
            assert torch.equal(ours.log_prob(tile), theirs.log_prob(same))
    with pytest.raises(ParameterError, match="None"):
        next(density.tiles(x[:, :1]))


def test_all_pixels_are_checked_once_and_not_again_for_each_tile(monkeypatch):
    density, checked = made(1, width=4), []
    monkeypatch.setattr(density, "check", lambda x: checked.append(len(density.places(x.shape))))
    x = grid_images(1, 1, TILE + 1, TILE + 1)
    with torch.no_grad():
        density.log_prob(x)
        density.log_prob_map(x)
        examine(density, x)
        assert len(list(density.tiles(x))) == 4
    assert checked == [4] * 4


def test_gradients_are_those_of_the_whole_image():
    density = made(1).double()
    x = (0.1 + 0.8 * grid_images(1, 1, 5, TILE + 4)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    (expected,) = torch.autograd.grad(density.conditionals(x).log_prob(x).sum(), x)
    torch.testing.assert_close(gradient, expected)
    with torch.no_grad():
        torch.testing.assert_close(density.log_prob(x), density.log_prob(x.requires_grad_()))


def test_a_likelihood_is_a_sum_in_double_precision():
    density = made(1, width=2, layers=0, mixtures=1)
    x = grid_images(1, 1, TILE + 50, TILE + 50)
    with torch.no_grad():
        exact = density.log_prob_map(x).double().sum().item()
        assert density.log_prob(x).item() == pytest.approx(exact, rel=1e-7)
        assert math.isclose(density.bits_per_dim(x).item(), -exact / (x.numel() * math.log(2)), rel_tol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (4, 3), (5, 11)])
def test_a_front_sees_earlier_fronts_only_and_no_pixel_is_left_out(size):
    density = made(rows=2, columns=2)
    settled = torch.zeros(3, *size)
    for _, channel, rows, columns in density.parts((3, *size)):
        assert not settled[channel, rows, columns].any()
        assert settled[:channel, rows, columns].all()
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
            assert settled[:, max(i - 2, 0) : i, max(j - 2, 0) : j + 3].all()
            assert settled[:, i, :j].all()
        settled[channel, rows, columns] = 1
    assert settled.all()
    x = grid_images(2, 3, *size)
    with torch.no_grad():
        expected = density.log_prob_map(x)
        for where, conditionals in zip(density.parts((3, *size)), density.steps(x), strict=True):
            torch.testing.assert_close(conditionals.log_prob(x[where]), expected[where], atol=1e-4, rtol=1e-4)


def test_all_methods_purify_across_tiles_alike(monkeypatch):
    monkeypatch.setattr(nelloc, "TILE", 6)
    density, x = made().double(), grid_images(3, 3, 13, 8).double()
    found = [most_probable_within(density, x, 20, method=method) for method in ("auto", "cached", "fixed_point")]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], x)


def test_each_part_of_an_image_is_purified_once():
    """Had it to agree bit for bit with a pass over the whole, one rounding would mean thousands of passes."""
    density, x = made(), grid_images(1, 3, 13, 8)
    found = []

    def rule(conditionals, where):
        found.append(where)
        return conditionals.most_probable(torch.zeros_like(x[where]), torch.ones_like(x[where])).to(x)

    solve(density, x, rule)
    assert len(found) == len(density.parts((3, 13, 8)))


# -- detectors ---------------------------------------------------------------------------------------------------------


def test_a_detector_of_an_open_density_takes_images_of_any_size(tmp_path):
    images = [noise(1, seed)[0][: 4 + seed % 5] for seed in range(30)]
    detector = Detector(made(1), statistic="bits_per_dim", fpr=0.1).fit(images)
    assert detector.takes == "grey images of any size"
    assert detector.accepts(np.zeros((1, 70), np.uint8))
    assert not detector.accepts(np.arange(75, dtype=np.uint8).reshape(5, 5, 3))
    detector.save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors")
    np.testing.assert_array_equal(again.p_value(images), detector.p_value(images))
    assert again.p_value(np.zeros((9, 3), np.uint8)).shape == (1,)
    assert [m.shape for m in detector.surprisal_map(images[:2])] == [(4, 8), (5, 8)]
    assert detector.with_backend("float32").takes == detector.takes
    with pytest.raises(ImageError):
        detector.p_value(np.zeros((2, 3, 4, 5, 6)))


def test_tiles_in_bfloat16_are_those_of_the_whole_image():
    fast = on_backend(made(), "bfloat16")
    x = grid_images(1, 3, TILE + 3, 12)
    with torch.no_grad():
        torch.testing.assert_close(fast.log_prob_map(x), fast.conditionals(x).log_prob(x), atol=0.5, rtol=0.05)
        assert not torch.equal(fast.log_prob_map(x), made().log_prob_map(x))


def test_the_command_line_draws_images_of_a_size(tmp_path):
    made(1).save(tmp_path / "d.safetensors")
    command = ["sample", str(tmp_path / "d.safetensors"), "-n", "2", "--out", str(tmp_path / "x.npz")]
    assert CliRunner().invoke(app, [*command, "--size", "3", "5"]).exit_code == 0
    assert np.load(tmp_path / "x.npz")["x"].shape == (2, 3, 5)
    assert CliRunner().invoke(app, command).exit_code != 0
