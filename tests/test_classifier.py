"""The classifier, its file, and what any classifier says about images."""

import pytest
import torch
from helpers import Brightness, grid_images
from torch import nn

from pixeldefend.ambient import modes_kept
from pixeldefend.classifier import ResNet, predict_labels
from pixeldefend.errors import ModelError
from pixeldefend.images import to_uint8
from pixeldefend.serialization import load_tensors, save_tensors


@pytest.fixture(scope="module")
def classifier() -> ResNet:
    torch.manual_seed(0)
    return ResNet((3, 8, 8), classes=4, width=4, blocks=2).eval()


def test_it_comes_back_from_its_file_with_notes(classifier, tmp_path):
    path = tmp_path / "c.safetensors"
    classifier.save(path, recipe={"epochs": 1})
    again = ResNet.load(path)
    x = grid_images(3, 3, 8, 8)
    assert torch.equal(again(x), classifier(x))
    assert again(x).shape == (3, 4)
    assert not again.training
    assert load_tensors(path)[1]["recipe"] == {"epochs": 1}


def test_other_files_are_refused(tmp_path):
    save_tensors(tmp_path / "d.safetensors", {"a": torch.ones(1)}, {"kind": "detector"})
    with pytest.raises(ModelError, match="detector"):
        ResNet.load(tmp_path / "d.safetensors")
    with pytest.raises(FileNotFoundError):
        ResNet.load(tmp_path / "missing.safetensors")


def test_labels_are_the_same_in_batches_and_of_either_type(classifier):
    x = grid_images(7, 3, 8, 8)
    expected = classifier(x).argmax(1)
    assert torch.equal(predict_labels(classifier, x, batch_size=3), expected)
    assert torch.equal(predict_labels(classifier, to_uint8(x)), expected)
    assert predict_labels(classifier, x[:0]).shape == (0,)
    dark_left = torch.cat([torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 4, 2)], 3)
    assert predict_labels(Brightness(), torch.cat([dark_left, dark_left.flip(3)])).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_classifier_gets_images_of_its_own_type(dtype):
    x = grid_images(4, 1, 8, 8)
    for images in (x, to_uint8(x), x.half(), x.double()):
        assert predict_labels(Brightness().to(dtype), images).dtype == torch.int64


def test_every_part_gets_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[1].eval()
    inside = []
    with pytest.raises(ZeroDivisionError), modes_kept(model, None):
        inside.extend(part.training for part in model.modules()) or 1 / 0
    assert inside == [False] * 3
    assert [part.training for part in model.modules()] == [True, True, False]
