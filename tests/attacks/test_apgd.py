"""Auto-PGD."""

import pytest
import torch
from foolbox.models.pytorch import PyTorchModel
from helpers import Brightness
from torch import nn

from pixeldefend.attacks import Attack, craft
from pixeldefend.attacks.apgd import LinfAutoPGD, checkpoints, cross_entropy, logits_ratio
from pixeldefend.errors import ParameterError


def test_the_checkpoints_are_those_of_the_paper():
    # p_j = 0, 0.22, then p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [0, 1]


def test_the_ratio_of_logits_does_not_depend_on_shift_and_scale():
    logits, labels = torch.randn(5, 7), torch.arange(5)
    ratio = logits_ratio(logits, labels)
    torch.testing.assert_close(logits_ratio(3 * logits + 2, labels), ratio)
    assert torch.equal(ratio > 0, logits.argmax(1) != labels)
    assert torch.isfinite(logits_ratio(logits[:, :2], labels.clamp(max=1))).all()


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_it_reaches_the_corner_of_a_linear_classifier(loss, near_the_boundary):
    """The highest loss within the budget is where every pixel has moved by all of it."""
    x, y = near_the_boundary
    eps = 4 / 255
    found = craft(Brightness(), x, y, Attack("pixeldefend.attacks.apgd:LinfAutoPGD", eps, {"steps": 20, "loss": loss}))
    assert found.succeeded.all()
    clean = x.double() / 255
    direction = torch.ones_like(clean)
    direction[..., clean.shape[3] // 2 :] = -1
    direction = torch.where((y == 0)[:, None, None, None], direction, -direction)
    corner = (clean + eps * direction).clamp(0, 1)
    torch.testing.assert_close(found.images.double() / 255, corner, atol=1.01 / 255, rtol=0)


def test_an_image_that_cannot_be_misclassified_gets_the_highest_loss(near_the_boundary):
    x = near_the_boundary[0][:2].float() / 255
    x[..., : x.shape[3] // 2], x[..., x.shape[3] // 2 :] = 0.9, 0.1
    labels = torch.ones(2, dtype=torch.long)
    classifier = Brightness().eval()
    _, found, _ = LinfAutoPGD(steps=10)(PyTorchModel(classifier, (0, 1), "cpu"), x, labels, epsilons=4 / 255)
    before, after = (cross_entropy(classifier(images), labels) for images in (x, found))
    assert (after > before).all()


class Valley(nn.Module):
    """The loss of class 0 is highest at a point within the budget, and never high enough for another class."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, x):
        away = (x - self.at).flatten(1).square().sum(1)
        return torch.stack([1 + 100 * away, torch.zeros_like(away)], 1)


def test_it_halves_its_steps_until_it_is_at_the_maximum(monkeypatch):
    eps = 8 / 255
    x = torch.rand(4, 1, 8, 8) * 0.5 + 0.25
    at = x + 0.3 * eps
    model, labels = PyTorchModel(Valley(at).eval(), (0, 1), "cpu"), torch.zeros(4, dtype=torch.long)

    def distance():
        return (LinfAutoPGD(steps=100)(model, x, labels, epsilons=eps)[1] - at).abs().max().item()

    assert distance() < 0.01 * eps
    monkeypatch.setattr("pixeldefend.attacks.apgd.checkpoints", lambda steps: [0])  # never halved
    assert distance() > 0.05 * eps


def test_impossible_settings_are_refused():
    for settings in ({"steps": 0}, {"loss": "hinge"}):
        with pytest.raises(ParameterError):
            LinfAutoPGD(**settings)
