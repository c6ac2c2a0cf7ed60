"""The gated PixelCNN: no blind spot, and classes."""

import pytest
import torch
from helpers import SMALL, dependence, grid_images, randomised, site_order, values

from pixeldefend import densities
from pixeldefend.densities import GatedPixelCNN, build
from pixeldefend.errors import ParameterError


def test_there_is_no_blind_spot():
    density = randomised(GatedPixelCNN((1, 4, 10), filters=24, blocks=9, head="bernoulli"), scale=0.2).double()
    seen = sum(dependence(density, values(density, 1, off_grid=True, seed=s).double(), (0, 3, 2)) for s in (0, 1))[0]
    assert (seen[:3] != 0).all()
    assert (seen[3, :2] != 0).all()


@pytest.mark.parametrize("case", SMALL["gated_pixelcnn"])
def test_every_channel_sees_every_site_before_it(case):
    density = randomised(build({"model": "gated_pixelcnn", **case}), scale=0.2).double()
    order = site_order(density)
    c, h, w = density.event_shape
    for site in [(c - 1, h - 1, w - 1), (0, h - 1, 0), (c - 1, h // 2, 1)]:
        inputs = (values(density, 1, off_grid=True, seed=seed).double() for seed in range(3))
        gradient = sum(dependence(density, x, site) for x in inputs)
        assert (gradient[order < order[site]] != 0).all()


@pytest.fixture
def by_class():
    return randomised(GatedPixelCNN((1, 4, 5), filters=12, blocks=2, classes=3, head="bernoulli"))


def test_a_class_conditions_the_density(by_class, tmp_path):
    x = values(by_class, 4)
    log_probs = torch.stack([by_class.conditioned(y).log_prob(x) for y in range(3)])
    assert (log_probs.std(0) > 0).all()
    each = by_class.conditioned(torch.tensor([2, 0, 1, 1])).log_prob(x)
    torch.testing.assert_close(each, log_probs[[2, 0, 1, 1], range(4)])
    by_class.conditioned(2).save(tmp_path / "two.safetensors")
    torch.testing.assert_close(densities.load(tmp_path / "two.safetensors").log_prob(x), log_probs[2])


def test_labels_teach_the_classes():
    """Class 0 is dark and class 1 is bright: p(x|y) must learn which is which, and p(x) must know both."""
    torch.manual_seed(0)
    density = GatedPixelCNN((1, 4, 4), filters=12, blocks=2, classes=2, head="bernoulli")
    optimizer = torch.optim.Adam(density.parameters(), 0.01)
    for _ in range(150):
        y = torch.randint(2, (64,))
        x = (torch.rand(64, 1, 4, 4) < (0.1 + 0.8 * y)[:, None, None, None]).float()
        optimizer.zero_grad()
        density.objective(x, y).mean().backward()
        optimizer.step()
    bright = (torch.rand(64, 1, 4, 4) < 0.9).float()
    right, wrong, either = (
        density.conditioned(y).log_prob(bright).mean() if y is not None else density.log_prob(bright).mean()
        for y in (1, 0, None)
    )
    assert right > either > wrong
    assert right > wrong + 5


def test_bad_labels_are_refused(by_class):
    with pytest.raises(ParameterError, match="3, got 3"):
        by_class.conditioned(3)
    with pytest.raises(ParameterError, match="whole numbers"):
        by_class.conditioned(torch.tensor([0.5]))
    with pytest.raises(ParameterError, match="4 images, got 2"):
        by_class.conditioned(torch.tensor([0, 1])).log_prob(values(by_class, 4))
    for n in (1, 3):
        for method in ("fixed_point", "cached", "sequential"):
            with pytest.raises(ParameterError, match=f"{n} images, got 2"):
                by_class.conditioned(torch.tensor([0, 1])).sample(n, method=method)
    with pytest.raises(ParameterError, match="classes, 0"):
        GatedPixelCNN((1, 4, 4), filters=4).conditioned(0)


def test_gradient_to_the_input_matches_finite_differences():
    density = randomised(GatedPixelCNN((1, 3, 4), filters=6, blocks=2, mixtures=2), scale=0.1).double()
    x = (0.1 + 0.8 * grid_images(1, 1, 3, 4)).double().requires_grad_()
    assert torch.autograd.gradcheck(density.log_prob, (x,), eps=1e-7, atol=1e-3)
