"""The Square attack."""

import foolbox
import pytest
import torch
from helpers import Brightness
from torch import nn

from pixeldefend.attacks import Attack, craft
from pixeldefend.attacks.square import LinfSquareAttack
from pixeldefend.errors import ParameterError


class Counting(Brightness):
    """Counts images and remembers whether a gradient could be taken."""

    def __init__(self):
        super().__init__()
        self.seen, self.graded = 0, False

    def forward(self, x):
        self.seen += len(x)
        self.graded |= x.requires_grad
        return super().forward(x)


def square(eps, **settings):
    return Attack("pixeldefend.attacks.square:LinfSquareAttack", eps, settings)


def test_it_keeps_to_its_queries_and_asks_for_no_gradient(near_the_boundary):
    x, y = near_the_boundary
    classifier = Counting()
    result = craft(classifier, x, 1 - y, square(1 / 255, queries=7))  # never attempted: already misclassified
    assert not result.attempted.any()
    asked = classifier.seen - len(x)  # of which one query an image is the attack's
    far = torch.zeros_like(x)
    far[..., : x.shape[3] // 2] = 255
    classifier.seen = 0
    result = craft(classifier, far, torch.ones(len(x), dtype=torch.long), square(1 / 255, queries=7))
    assert not result.succeeded.any()
    # the attack's own, and those of `craft` before and after it
    assert classifier.seen <= 7 * len(x) + asked
    assert not classifier.graded


class Constant(nn.Module):
    """Keeps what it is asked about, and never changes its mind."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x):
        self.asked.append(x)
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_query_asks_about_the_best_image_again(channels):
    x, labels = torch.full((4, channels, 8, 8), 0.5), torch.zeros(4, dtype=torch.long)
    classifier = Constant().eval()
    LinfSquareAttack(queries=100)(foolbox.PyTorchModel(classifier, (0, 1), "cpu"), x, labels, epsilons=8 / 255)
    stripes, *squares = classifier.asked[1:100]  # the first one is about the clean images
    assert len(squares) == 98
    for images in squares:
        assert (images != stripes).flatten(1).any(1).all()


def test_it_succeeds_where_a_budget_suffices(near_the_boundary):
    x, y = near_the_boundary
    result = craft(Brightness(), x, y, square(8 / 255, queries=300, area=0.3))
    assert result.succeeded.all()
    assert result.linf.max() <= 8 / 255 + 1e-6


def test_impossible_settings_are_refused():
    for settings in ({"queries": 1}, {"area": 0.0}, {"area": 1.5}):
        with pytest.raises(ParameterError):
            LinfSquareAttack(**settings)
