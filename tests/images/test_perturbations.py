"""Tests synthetic perturbations."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pixeldefend.images.perturbations import PATTERNS, SQUARES, View, perturbed, with_extreme_pixels


def test_half_the_perturbations_of_grey_images_are_grey():
    x = torch.randint(30, 226, (60, 1, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    moved = perturbed(x.expand(-1, 3, -1, -1), seed=1)
    grey = (moved == moved[:, :1]).all(3).all(2).all(1)
    assert 15 < grey.sum() < 45
    assert (moved != x).flatten(1).any(1).all()


def test_half_the_perturbations_leave_a_black_background_as_it_is():
    x = torch.randint(60, 196, (60, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x[..., :12] = 0
    moved = perturbed(x, seed=1, sizes={8: 1.0})
    is_kept = (moved == x)[..., :12].flatten(1).all(1)
    assert 18 < is_kept.sum() < 46
    assert (moved != x).flatten(1).any(1).all()


def test_perturbations_are_small_various_and_reproducible():
    x = torch.randint(30, 226, (100, 3, 64, 72), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    moved = perturbed(x, seed=1)
    assert moved.dtype == torch.uint8
    difference = moved.int() - x.int()
    size = difference.abs().amax((1, 2, 3))
    assert size.min() >= 1
    assert (size == 1).any()
    assert size.max() > 8
    assert size.double().median() <= 3
    share = (difference != 0).double().mean((1, 2, 3))
    assert share.min() < 0.3
    assert share.max() > 0.95
    torch.testing.assert_close(perturbed(x, seed=1), moved)
    assert (perturbed(x, seed=2) != moved).any()
    assert perturbed(x[:0], seed=0).shape == (0, 3, 64, 72)


def test_the_pattern_of_a_view_is_a_gradient_through_cropping_and_shrinking():
    drawn = [np.random.default_rng(0), torch.Generator().manual_seed(0)]
    pattern = View(2.0, (6, 10, 4, 8)).pattern(torch.Size([3, 60, 80]), PATTERNS, *drawn)
    assert pattern.shape == (3, 60, 80)
    x = torch.zeros(3, 60, 80, requires_grad=True)
    seen = F.interpolate(x[None, :, 4:52, 6:70], (24, 32), mode="bilinear", antialias=True)
    # the gradients of the pixels that are seen span all gradients: the pattern is one of them if they explain it
    basis = [
        torch.autograd.grad(seen[0, 0, top, left], x, retain_graph=True)[0][0].flatten()
        for top in range(24)
        for left in range(32)
    ]
    a, b = torch.stack(basis, 1).double(), pattern.flatten(1).double().T
    inside = torch.zeros(60, 80, dtype=torch.bool)
    inside[8:48, 10:66] = True  # at the edges antialiasing has other weights
    rest = (b - a @ torch.linalg.lstsq(a[inside.flatten()], b[inside.flatten()]).solution)[inside.flatten()]
    assert rest.abs().max() < 1e-4
    outside = torch.ones(60, 80, dtype=torch.bool)
    outside[4:52, 6:70] = False
    assert (pattern[:, outside] == 0).all()
    assert View().pattern(torch.Size([3, 60, 80]), PATTERNS, *drawn).std() == pytest.approx(1, abs=1e-3)


def test_a_quarter_of_the_perturbations_are_made_for_a_smaller_view():
    x = torch.randint(30, 226, (200, 3, 64, 72), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    difference = (perturbed(x, seed=3).int() - x.int()).double()
    power = difference.square().mean((1, 2, 3))
    rough = (difference[..., 1:] - difference[..., :-1]).square().mean((1, 2, 3)) / power
    assert 0.1 < (rough < 0.8).double().mean() < 0.45


def test_the_sizes_are_those_that_are_asked_for():
    x = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    assert (perturbed(x, seed=0, sizes={1: 1.0}).int() - 128).abs().max() <= 3
    assert (perturbed(x, seed=0, sizes={16: 1.0}).int() - 128).abs().amax((1, 2, 3)).median() >= 16


def test_the_patterns_are_those_that_are_asked_for():
    x = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    moved = perturbed(x, seed=0, sizes={8: 1.0}, patterns=SQUARES).int() - 128
    rows, columns = (moved.diff(dim=axis).ne(0).double().mean((1, 2, 3)) for axis in (2, 3))
    assert torch.minimum(rows, columns).median() < 0.4  # stripes lie along one of the axes


def test_few_pixels_become_extreme():
    x = torch.randint(30, 226, (200, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    moved = with_extreme_pixels(x, seed=1)
    assert moved.dtype == torch.uint8
    pixels = (moved != x).any(1).flatten(1).sum(1)
    assert pixels.max() <= 85
    assert 1 <= pixels.float().quantile(0.1) <= 3
    changed = moved[moved != x]
    assert ((changed == 0) | (changed == 255)).double().mean() > 0.5
    torch.testing.assert_close(with_extreme_pixels(x, seed=1), moved)
    assert with_extreme_pixels(x[:0], seed=0).shape == (0, 3, 32, 32)
