"""Query attacks: real ones are named within their first 200 queries, ordinary clients are not."""

import numpy as np
import pytest
import torch
from foolbox.attacks import BoundaryAttack, HopSkipJumpAttack
from foolbox.criteria import Misclassification
from foolbox.models.pytorch import PyTorchModel
from helpers import SAMPLE, Brightness
from PIL import Image
from torch import nn

from pixeldefend.errors import ParameterError
from pixeldefend.images import to_uint8
from pixeldefend.serving.query_detection import QueryAttacks


class Named(Exception):
    """The attack has been noticed."""


class Served(nn.Module):
    """A classifier behind the service: each image is looked at before it is answered."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier, self.detection = classifier, QueryAttacks()
        self.queries = 0

    def forward(self, x):
        for image in to_uint8(x.detach())[:, 0].numpy():
            self.queries += 1
            if self.detection.is_attack("attacker", image):
                raise Named
        return self.classifier(x)


@pytest.fixture(scope="module")
def sample():
    with np.load(SAMPLE) as file:
        return file["x"]


@pytest.mark.parametrize("attack", [HopSkipJumpAttack(steps=1), BoundaryAttack(steps=150)], ids=["hsj", "boundary"])
def test_black_box_attacks_are_named_early(attack, sample):
    images = torch.from_numpy(sample[:100, None]) / 255
    labels = Brightness()(images).argmax(1)
    (first, *_), (start, *_) = (images[labels == label] for label in (0, 1))  # start: of the other class
    served = Served(Brightness()).eval()
    model = PyTorchModel(served, (0, 1), torch.device("cpu"))
    criterion = Misclassification(torch.tensor([0]))
    with pytest.raises(Named):
        attack.run(model, first[None], criterion, starting_points=start[None])
    assert served.queries <= 200


def test_ordinary_images_are_not_named(sample):
    detection = QueryAttacks()
    assert not any(detection.is_attack("shop", image) for image in sample)
    assert not any(detection.is_attack("shop", image) for image in sample)  # sent again


def test_clients_are_told_apart_and_forgotten():
    detection = QueryAttacks(clients=2, neighbours=2)
    images = [np.full((8, 8), value, np.uint8) for value in range(100, 108)]
    assert not any(detection.is_attack(f"client {i}", image) for i, image in enumerate(images[:3]))
    assert [detection.is_attack("a", image) for image in images] == [False, False] + [True] * 6
    for name in ("b", "c"):
        detection.is_attack(name, images[0])
    assert not detection.is_attack("a", images[0])
    assert not detection.is_attack("a", images[1])


def test_variants_of_another_size_are_named_too():
    detection = QueryAttacks()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8))
    sizes = [(300 + i, 225 + i) for i in range(7)]
    named = [detection.is_attack("a", np.asarray(image.resize(size, Image.Resampling.BICUBIC))) for size in sizes]
    assert named == [False] * 5 + [True] * 2


def test_the_window_is_bounded():
    detection = QueryAttacks(window=10, neighbours=1)
    image = np.full((8, 8), 100, np.uint8)
    assert not detection.is_attack("a", image)
    random = np.random.RandomState(0)
    for _ in range(10):
        assert not detection.is_attack("a", random.randint(0, 256, (8, 8)).astype(np.uint8))
    assert not detection.is_attack("a", image + 1)
    assert detection.is_attack("a", image + 2)


def test_wrong_arguments():
    for options in (dict(window=3), dict(neighbours=0), dict(within=0), dict(clients=0)):
        with pytest.raises(ParameterError):
            QueryAttacks(**options)
