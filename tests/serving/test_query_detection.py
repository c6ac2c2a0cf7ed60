"""Query attacks: real ones are named within their first 200 queries, ordinary clients are not."""

import numpy as np
import pytest
import torch
from foolbox.attacks import BoundaryAttack, HopSkipJumpAttack
from foolbox.criteria import Misclassification
from foolbox.models.pytorch import PyTorchModel
from helpers import SAMPLE
from torch import nn

from pixeldefend.images import to_uint8
from pixeldefend.serving.query_detection import QueryAttacks
from pixeldefend.zoo import load_classifier


class Served(nn.Module):
    """A classifier behind the service: each image asked about is looked at before it is answered."""

    def __init__(self, classifier: nn.Module, watch: QueryAttacks) -> None:
        super().__init__()
        self.classifier, self.watch = classifier, watch
        self.named: list[bool] = []

    def forward(self, x):
        for image in to_uint8(x.detach())[:, 0].numpy():
            self.named.append(self.watch.is_attack("attacker", image))
        return self.classifier(x)


@pytest.fixture(scope="module")
def sample():
    with np.load(SAMPLE) as file:
        return file["x"], file["y"]


@pytest.mark.parametrize("attack", [HopSkipJumpAttack(steps=1), BoundaryAttack(steps=150)], ids=["hsj", "boundary"])
def test_black_box_attacks_are_named_early(attack, sample):
    x, y = (torch.from_numpy(part) for part in sample)
    classifier = load_classifier("fashion-mnist").eval()
    right = (classifier(x[:20, None] / 255).argmax(1) == y[:20]).nonzero()[:3, 0]
    for i in right.tolist():
        served = Served(classifier, QueryAttacks())
        model = PyTorchModel(served.eval(), (0, 1), torch.device("cpu"))
        image, label = x[i : i + 1, None] / 255, y[i : i + 1].long()
        other = x[(y != y[i]).nonzero()[0, 0]][None, None] / 255  # where it starts from
        attack.run(model, image, Misclassification(label), starting_points=other)
        assert True in served.named[:200]


def test_ordinary_images_are_not_named(sample):
    watch = QueryAttacks()
    assert not any(watch.is_attack("shop", image) for image in sample[0])
    assert not any(watch.is_attack("shop", image) for image in sample[0])  # sent again


def test_clients_are_told_apart_and_forgotten():
    watch = QueryAttacks(clients=2, neighbours=2)
    images = [np.full((8, 8), value, np.uint8) for value in range(100, 108)]
    assert not any(watch.is_attack(f"client {i}", image) for i, image in enumerate(images[:3]))
    assert [watch.is_attack("a", image) for image in images] == [False, False] + [True] * 6
    for name in ("b", "c"):
        watch.is_attack(name, images[0])
    assert not watch.is_attack("a", images[0])
    assert not watch.is_attack("a", images[1])


def test_the_window_is_bounded():
    watch = QueryAttacks(window=10, neighbours=1)
    image = np.full((8, 8), 100, np.uint8)
    assert not watch.is_attack("a", image)
    random = np.random.RandomState(0)
    for _ in range(10):
        assert not watch.is_attack("a", random.randint(0, 256, (8, 8)).astype(np.uint8))
    assert not watch.is_attack("a", image + 1)
    assert watch.is_attack("a", image + 2)


def test_wrong_arguments():
    for options in (dict(window=3), dict(neighbours=0), dict(within=0), dict(clients=0)):
        with pytest.raises(ValueError, match="positive"):
            QueryAttacks(**options)
