import torch
from helpers import Brightness, clean_images
from torch import nn

from pixeldefend.training.tasks import worst_within


def test_the_worst_images_within_a_budget_raise_the_loss():
    classifier = Brightness()
    x = torch.from_numpy(clean_images(20, seed=1))[:, None] / 255
    y = classifier(x).argmax(1)
    worst = worst_within(classifier, x, y, 4 / 255)
    assert (worst - x).abs().max() <= 4 / 255 + 1e-6
    assert 0 <= worst.min() <= worst.max() <= 1
    assert nn.functional.cross_entropy(classifier(worst), y) > nn.functional.cross_entropy(classifier(x), y)
