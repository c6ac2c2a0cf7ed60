"""Purification of images, and as a part of a classifier. The algorithm itself: densities/test_purification.py."""

import sys

import numpy as np
import pytest
import torch
from helpers import clean_images
from torch.nn import functional as F

from pixeldefend import load_classifier, load_detector
from pixeldefend.attacks import craft
from pixeldefend.densities import FVSBN, MADE
from pixeldefend.detectors import Detector
from pixeldefend.purification import PixelDefend, purify
from pixeldefend.zoo import cached_detector


def test_no_sub_pixel_moves_further_than_eps(tiny_density):
    x = torch.from_numpy(clean_images(5))
    for eps in (0, 1, 30, 255):
        purified = purify(x.numpy(), eps, tiny_density)
        assert purified.dtype == torch.uint8
        assert purified.shape == (5, 1, 8, 8)
        assert (purified[:, 0].int() - x.int()).abs().max() <= eps
    assert torch.equal(purify(x.numpy(), 0, tiny_density)[:, 0], x)


def test_purified_images_are_more_probable_the_further_they_may_move(tiny_density):
    noisy = np.clip(clean_images(20).astype(int) + np.random.RandomState(0).randint(-20, 21, (20, 8, 8)), 0, 255)
    noisy = noisy.astype(np.uint8)
    with torch.no_grad():
        bits = [
            tiny_density.bits_per_dim(purify(noisy, eps, tiny_density) / 255).mean().item() for eps in (0, 5, 20, 60)
        ]
    assert max(bits[1:]) < bits[0] - 0.5  # greedy, and so not always the better the further


def test_the_result_does_not_depend_on_the_batch(tiny_density):
    x = clean_images(7)
    together = purify(x, 20, tiny_density)
    assert torch.equal(purify(x, 20, tiny_density, batch_size=2), together)
    assert torch.equal(purify(x[3], 20, tiny_density), together[3])
    assert purify(x[3], 20, tiny_density).shape == (1, 8, 8)


def test_adaptive_purification_leaves_alone_what_is_not_flagged(tiny_detector):
    noise = np.random.RandomState(0).randint(0, 256, (4, 8, 8)).astype(np.uint8)
    x = np.concatenate([clean_images(20, seed=5), noise])
    flagged = tiny_detector.is_adversarial(x)
    assert flagged[-4:].all()
    assert not flagged.all()
    purified = purify(x, 30, tiny_detector, adaptive=True)
    assert torch.equal(purified[~flagged], torch.from_numpy(x[~flagged])[:, None])
    assert torch.equal(purified[flagged], purify(x[flagged], 30, tiny_detector))


class Brightness(torch.nn.Module):
    """Two classes: darker or brighter than the middle."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_a_defended_classifier_is_a_classifier_with_a_straight_through_gradient(tiny_density):
    defended = PixelDefend(Brightness(), tiny_density, eps=10)
    x = (torch.from_numpy(clean_images(4))[:, None] / 255).requires_grad_()
    logits = defended(x)
    torch.testing.assert_close(logits, Brightness()(purify(x.detach(), 10, tiny_density) / 255))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, 1 / 64))
    off_grid = defended(x.detach() + 0.2 / 255)  # as within an attack
    torch.testing.assert_close(off_grid, logits.detach())


def test_foolbox_attacks_through_the_purifier(tiny_density):
    x = clean_images(6)
    y = torch.from_numpy((x.mean((1, 2)) / 255 > 0.5).astype(np.int64))
    attacked = craft(PixelDefend(Brightness(), tiny_density, eps=4), x, y, "fgsm-8")
    assert (attacked.linf <= 8 / 255 + 1e-6).all()
    assert attacked.attempted.any()
    assert (attacked.linf[attacked.attempted] > 0).all()  # the gradient passes through


@pytest.mark.slow
def test_purification_gives_the_shipped_classifier_its_labels_back():
    """A few images that were attacked, of the sample of Fashion-MNIST."""
    from helpers import SAMPLE

    with np.load(SAMPLE) as file:
        x, y = file["x"][:24], torch.from_numpy(file["y"][:24]).long()
    classifier = load_classifier("fashion-mnist")
    attacked = craft(classifier, x, y, "bim-8")
    x, y = attacked.images[attacked.succeeded], y[attacked.succeeded]

    def accuracy(x: torch.Tensor) -> float:
        with torch.no_grad():
            return (classifier(x / 255).argmax(1) == y).float().mean().item()

    assert accuracy(x) == 0
    assert accuracy(purify(x, 16, "fashion-mnist")) > 0.6


@pytest.mark.parametrize("eps", [-1, 256, 1.5, float("nan"), "16", None, True])
def test_eps_is_checked(eps, tiny_density):
    with pytest.raises(ValueError, match="eps must be a whole number of 8-bit steps, 0 to 255, got"):
        purify(clean_images(1), eps, tiny_density)


def test_other_errors_say_what_is_wrong(tiny_density):
    x = clean_images(2)
    with pytest.raises(ValueError, match="there are no images to purify"):
        purify(x[:0], 8, tiny_density)
    with pytest.raises(ValueError, match=r"256 levels.*; got a MADE of events"):
        purify(x, 8, MADE((64,)))
    with pytest.raises(ValueError, match=r"256 levels.*; got a FVSBN of events"):
        purify(x, 8, FVSBN((1, 8, 8), head="bernoulli"))
    with pytest.raises(ValueError, match=r"256 levels.*; got NoneType"):
        purify(x, 8, Detector())
    with pytest.raises(ValueError, match=r"models images of shape \(1, 8, 8\), got \(1, 9, 9\)"):
        purify(np.zeros((9, 9), np.uint8), 8, tiny_density)
    with pytest.raises(ValueError, match="adaptive needs a Detector"):
        purify(x, 8, tiny_density, adaptive=True)
    with pytest.raises(ValueError, match=r"method must be one of auto, .*, got 'magic'"):
        purify(x, 8, tiny_density, method="magic")
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1, got 0"):
        purify(x, 8, tiny_density, batch_size=0)


def test_too_large_a_batch_is_split_and_says_so(tiny_density, monkeypatch):
    module = sys.modules["pixeldefend.purification"]
    original, sizes = module.most_probable_within, []

    def small_memory(density, x, *rest, **options):
        sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return original(density, x, *rest, **options)

    x = clean_images(5)
    expected = purify(x, 8, tiny_density)
    monkeypatch.setattr(module, "most_probable_within", small_memory)
    with pytest.warns(UserWarning, match="batch of 5 does not fit into memory; continuing with batches of 2"):
        assert torch.equal(purify(x, 8, tiny_density), expected)
    assert sizes == [5, 2, 2, 1]


# -- as a score -------------------------------------------------------------------------------------------------------


class Speckles(torch.nn.Module):
    """Two classes: smooth, or with a pixel that stands out from its neighbours. Easily fooled."""

    def forward(self, x):
        rough = (x[:, :, 1:] - x[:, :, :-1]).abs().amax((1, 2, 3))
        return 60 * torch.stack([0.06 - rough, rough - 0.06], 1)


def speckled(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[:, 4, 4] += np.where(x[:, 4, 4] < 128, 24, -24).astype(np.uint8)
    return x


def test_the_disagreement_is_between_the_image_and_its_purified_and_smoothed_versions(tiny_density):
    x = speckled(clean_images(30, seed=4))
    classifier = Speckles()
    detector = Detector(tiny_density, statistic="purified_disagreement", classifier=classifier, fpr=0.05)
    scores = -detector.fit(clean_images(99)).score_samples(x)
    image = torch.from_numpy(x)[:, None] / 255
    side = np.exp(-0.5 / 0.4**2)
    kernel = torch.tensor([side, 1, side], dtype=torch.float) / (1 + 2 * side)
    smooth = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), kernel.outer(kernel)[None, None])
    others = (purify(x, 4, tiny_density) / 255, purify(x, 8, tiny_density) / 255, smooth)
    before, *after = (classifier(other).softmax(1) for other in (image, *others))
    expected = sum((before - read).square().sum(1).sqrt() for read in after) / 3
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.max() > 0.1
    assert scores.max() <= np.sqrt(2)


def test_a_fused_score_may_ask_the_classifier_and_survives_a_file(tiny_density, tmp_path):
    x, more = clean_images(99), clean_images(60, seed=9)
    detector = Detector(tiny_density, statistic="fused_with_classifier", classifier=Speckles(), fpr=0.05)
    detector.fit(x, X_fit=more)
    assert "purified_disagreement" in detector.score_.quantiles_
    detector.save(tmp_path / "detector.safetensors")
    again = Detector.load(tmp_path / "detector.safetensors", classifier=Speckles())
    np.testing.assert_allclose(again.p_value(speckled(x[:9])), detector.p_value(speckled(x[:9])))
    without = Detector.load(tmp_path / "detector.safetensors")
    with pytest.raises(ValueError, match="classifier"):
        without.is_adversarial(x[:1])


def test_a_defence_has_a_density_of_its_own_once(tiny_density):
    """It may go to another device or precision without taking the detectors along that were loaded by name."""
    defended = PixelDefend(Speckles(), "fashion-mnist").double()
    assert defended.model.dtype == torch.float64
    assert load_detector("fashion-mnist").density.dtype == torch.float32
    assert cached_detector("fashion-mnist").density.dtype == torch.float32
    names = [name for name in PixelDefend(Speckles(), tiny_density).state_dict() if "last.bias" in name]
    assert names == ["model.net.last.bias"]
