"""Tests what a detector of photographs is trained on."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pixeldefend.errors import DataError, ParameterError
from pixeldefend.images import Origin
from pixeldefend.scores.likelihood_ratio import FILE_KINDS
from pixeldefend.training.photographs import AS_IT_CAME, crops, photographs, with_history
from pixeldefend.training.ratio import fit_ratio


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs") / "folder"  # the name decides to which part a photograph belongs
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        small.resize((256, 192), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    return folder


def test_every_photograph_belongs_to_one_part_wherever_the_folder_lies(folder, tmp_path):
    train, held = (photographs([str(folder)], part) for part in ("train", "calibration"))
    assert sorted(train + held) == photographs([str(folder)], "test")
    assert len(train) + len(held) == 20
    assert not set(train) & set(held)
    assert len(train) > len(held) > 0
    moved = tmp_path / folder.name
    moved.symlink_to(folder)
    assert [path.name for path in photographs([str(moved)], "train")] == [path.name for path in train]
    shutil.copy(train[0], tmp_path / os.fsdecode(b"\xff.jpg"))
    assert len(photographs([str(tmp_path)], "train")) >= len(train)
    with pytest.raises(DataError, match="no photographs"):
        photographs([str(tmp_path / "none")], "train")


def test_a_history_is_reproducible_and_comes_with_an_origin(folder):
    path = folder / "0.jpg"
    image, origin = with_history(path, AS_IT_CAME, seed=0)
    assert (image.shape, origin.format, origin.quality) == ((192, 256, 3), "JPEG", 90)
    first, again, other = (with_history(path, "resized_jpeg", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1].format == "JPEG"
    assert first[0].shape != other[0].shape or (first[0] != other[0]).any()


def test_crops_are_as_many_as_asked_for(folder):
    drawn = list(crops(photographs([str(folder)], "train"), 11, 64, seed=0, each=4))
    assert [crop.shape for crop in drawn] == [(64, 64, 3)] * 11


def test_no_copy_of_a_training_photograph_is_calibrated_on(folder, tmp_path):
    train, held = (photographs([str(folder)], part) for part in ("train", "calibration"))
    copies = tmp_path / "copies"
    copies.mkdir()
    for number in range(20):
        shutil.copyfile(train[0], copies / f"{number}.jpg")
    assert photographs([str(folder), str(copies)], "calibration") == held
    with pytest.raises(DataError, match="sides of at least 999"):
        next(crops(train, 1, 999, seed=0))


def test_the_ratio_finds_the_log_likelihood_ratio_of_normal_features():
    rng = np.random.default_rng(0)
    clean, moved = (torch.from_numpy(rng.normal(size=(4000, 3)) + shift).float() for shift in (0, [1, 0, 0]))
    labels = rng.integers(0, 2, 4000)
    clean[:, 2] += 8 * torch.from_numpy(labels)
    moved[:, 2] += 8 * torch.from_numpy(labels)
    origins = [Origin("JPEG", True, 80) if label else None for label in labels]
    ratio = fit_ratio(clean, [moved], labels, origins, ("plain", "shifted"), width=16, steps=800)
    at = torch.tensor([[-1.0, 0, 0], [0.5, 0, 0], [2, 0, 8]])
    scores, histories = ratio(at)
    torch.testing.assert_close(scores, at[:, 0] - 0.5, atol=0.35, rtol=0)
    assert histories.argmax(1).tolist() == [0, 0, 1]
    assert FILE_KINDS[ratio.file_kinds[1].argmax()] == "JPEG below 90"
    with pytest.raises(ParameterError, match="same images"):
        fit_ratio(clean, [moved[:10]], labels, origins, ("plain", "shifted"))
