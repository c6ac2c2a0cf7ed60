"""Classifiers of ImageNet by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixeldefend.errors import ModelError, ParameterError
from pixeldefend.imagenet import (
    EFFICIENTNETS,
    ImageNetClassifier,
    imagenet_classifier,
    is_imagenet_name,
    names_of_classes,
    resized_and_cropped,
    wordnet_ids,
)


class Pooled(nn.Module):
    """Logits that are the mean of each channel."""

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture
def small() -> ImageNetClassifier:
    return ImageNetClassifier(Pooled(), input_size=28, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))


def test_there_are_a_thousand_classes_in_the_order_of_their_wordnet_ids():
    assert len(wordnet_ids()) == len(set(wordnet_ids())) == 1000
    assert wordnet_ids() == sorted(wordnet_ids())
    names = dict(zip(wordnet_ids(), names_of_classes(), strict=True))
    assert (names["n01440764"], names["n15075141"]) == ("tench", "toilet tissue")


def test_an_image_of_the_right_size_is_only_normalised(small):
    x = torch.rand(2, 3, 28, 28)
    assert small.cropped(x) is x
    expected = (x.mean((2, 3)) - 0.5) / torch.tensor([0.25, 0.5, 1.0])
    torch.testing.assert_close(small(x), expected)


@pytest.mark.parametrize("size", [(40, 50), (90, 31), (20, 24)])
def test_photographs_of_any_size_are_resized_and_cropped_with_a_gradient(small, size):
    x = torch.rand(1, 3, *size).requires_grad_()
    cropped = small.cropped(x)
    assert cropped.shape == (1, 3, 28, 28)
    (gradient,) = torch.autograd.grad(small(x).sum(), x)
    assert gradient.abs().sum() > 0
    # the middle row and column are in the crop, the corners of the longer side are not
    assert gradient[0, :, size[0] // 2, size[1] // 2].abs().min() > 0
    if max(size) > 1.5 * min(size):
        assert gradient[0, :, 0, 0].abs().max() == 0


def test_resizing_keeps_constant_images_and_the_range():
    torch.testing.assert_close(
        resized_and_cropped(torch.full((1, 3, 50, 70), 0.3), 20), torch.full((1, 3, 20, 20), 0.3)
    )
    stripes = (torch.arange(60) % 2).float().expand(1, 3, 64, 60)
    resized = resized_and_cropped(stripes, 56, mode="bicubic")
    assert resized.min() >= 0
    assert resized.max() <= 1
    with pytest.raises(ParameterError):
        resized_and_cropped(stripes, 20, resized=10)


def test_of_a_strip_the_middle_is_resized(monkeypatch):
    sizes, interpolate = [], F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda x, **given: sizes.append(given["size"]) or interpolate(x, **given))
    strip = torch.zeros(1, 3, 2, 10_000)
    strip[..., 4990:5010] = 1
    for x in (strip, strip.mT):
        assert (resized_and_cropped(x, 8) == 1).all()
    assert sizes == [(9, 144), (144, 9)]


def test_unknown_names_are_refused():
    assert is_imagenet_name("torchvision:resnet50")
    assert not is_imagenet_name("cifar10")
    for name in ("efficientnet-lite9", "torchvision:nope", "torchvision:"):
        with pytest.raises(ParameterError):
            imagenet_classifier(name)


def test_weights_that_cannot_be_downloaded_name_the_file(monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", refused)
    with pytest.raises(ModelError, match=r"resnet18-f37072fd\.pth"):
        imagenet_classifier("torchvision:resnet18")


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_an_efficientnet_knows_its_normalisation(name):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(EFFICIENTNETS[name][1])
    classifier = imagenet_classifier(name)
    size = classifier.input_size
    seen = []
    classifier.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.tensor([0.0, 127 / 255, 1.0])[:, None, None].expand(1, 3, size, size)
    assert classifier(x).shape == (1, 1000)
    torch.testing.assert_close(seen[0][0, :, 5, 5], torch.tensor([-127 / 128, 0.0, 1.0]), atol=1e-6, rtol=0)
    assert not classifier.training
