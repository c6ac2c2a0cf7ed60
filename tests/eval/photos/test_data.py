"""Folders of photographs."""

import shutil
import sys

import pytest
import torch
from PIL import Image

from pixeldefend.classifier import predict_labels
from pixeldefend.errors import DataError
from pixeldefend.eval.photos import Learning, data, read_photographs
from pixeldefend.images import read_image


def test_labels_come_from_the_names_of_files(folder, classifier):
    lines = []
    found = read_photographs(folder, classifier, log=lines.append)
    assert (found.view, found.labels, len(found), found.left_out) == ("16", "given", 12, 1)
    assert len(lines) == 1
    assert all(image.shape == (3, 16, 16) and image.dtype == torch.uint8 for image in found.x)
    assert [f"n0000000{label + 1}" for label in found.y.tolist()] == [path.name[:9] for path in found.paths]


def test_labels_come_from_sub_folders_or_are_predicted(folder, classifier, tmp_path):
    for i, path in enumerate(sorted(folder.glob("*_[0-9]*.png"))):
        inside = tmp_path / "set" / ("cold" if i % 2 else "n00000003")
        inside.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, inside / f"{i}.png")
    found = read_photographs(tmp_path / "set", classifier)
    assert found.labels == "given"
    assert {(path.parent.name, label) for path, label in zip(found.paths, found.y.tolist(), strict=True)} == {
        ("cold", 1),
        ("n00000003", 2),
    }
    (tmp_path / "set" / "n00000003").rename(tmp_path / "set" / "holiday")
    found = read_photographs(tmp_path / "set", classifier)
    assert found.labels == "predicted"
    assert torch.equal(found.y, predict_labels(classifier, torch.stack(found.x)))


def test_the_native_view_keeps_pixels_and_leaves_out_what_is_too_large(folder, classifier):
    found = read_photographs(folder, classifier, view="native", max_pixels=11_500)
    assert {tuple(image.shape) for image in found.x} == {(3, 100, 110)}
    assert found.left_out == 1 + 4
    assert (read_image(found.paths[0]) == found.x[0].permute(1, 2, 0).numpy()).all()
    both = read_photographs(folder, classifier, view="native")
    groups = both.batches(3 * 12_000)
    assert sorted(place for group in groups for place in group.index.tolist()) == list(range(12))
    assert max(map(len, groups)) == 3
    for group in groups:
        assert all(torch.equal(x, both.x[i]) for x, i in zip(group.x, group.index.tolist(), strict=True))


def test_more_photographs_begin_with_the_same(folder, classifier):
    few, many = (read_photographs(folder, classifier, limit=limit) for limit in (4, 9))
    assert few.paths == many.paths[:4]
    assert few.digest() == many.take(range(4)).digest() != many.digest()


def test_what_cannot_be_read_here_is_left_out(folder, classifier, tmp_path, monkeypatch):
    for name in ("a.heic", "b.png", "c.png"):
        shutil.copy(next(folder.glob("*_[0-9]*.png")), tmp_path / name)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    read = data.read_image
    monkeypatch.setattr(
        data, "read_image", lambda file, **options: read(tmp_path / "gone" if "b." in file else file, **options)
    )
    lines = []
    found = read_photographs(tmp_path, classifier, log=lines.append)
    assert (len(found), found.left_out) == (1, 2)
    assert any("pixeldefend[heic]" in line for line in lines)


def test_files_hold_the_images(folder, classifier):
    found = read_photographs(folder, classifier, limit=2)
    for image, file in zip(found.x, found.files(), strict=True):
        assert (read_image(file) == image.permute(1, 2, 0).numpy()).all()


def test_grey_photographs_get_three_channels(classifier, tmp_path):
    Image.new("L", (50, 40), 77).save(tmp_path / "grey.png")
    (image,) = read_photographs(tmp_path, classifier).x
    assert (image == 77).all()
    assert image.shape == (3, 16, 16)


def test_what_cannot_be_used_is_refused(folder, classifier, tmp_path):
    for arguments in ((tmp_path, None), (tmp_path / "nowhere", None), (folder, "huge"), (folder, "0")):
        with pytest.raises((DataError, OSError)):
            read_photographs(arguments[0], classifier, view=arguments[1])


def test_photographs_to_learn_from_are_divided_and_kept_apart(folder, classifier):
    found = read_photographs(folder, classifier)
    learning = Learning.of(found.take(range(6)))
    assert (len(learning.fit), len(learning.calibration)) == (2, 4)
    assert not {*learning.fit.paths} & {*learning.calibration.paths}
    learning.check_others(found.take(range(6, 12)))
    with pytest.raises(DataError):
        learning.check_others(found.take(range(5, 12)))
    with pytest.raises(DataError):
        Learning.of(found.take(range(2)))
