import numpy as np
import pytest
import torch
from PIL import Image

from pixeldefend.datasets import DATASETS, load_dataset


def numbered(n: int) -> np.ndarray:
    """(n, 8, 8) uint8 images, each different."""
    images = np.zeros((n, 8, 8), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return images


def ids(x: torch.Tensor) -> set[int]:
    return set((x[:, 0, 0, 0].long() + 256 * x[:, 0, 0, 1].long()).tolist())


def test_parts_of_an_npz_are_disjoint_complete_and_the_same_each_time(tmp_path):
    np.savez(tmp_path / "set.npz", x=numbered(600), y=np.arange(600) % 10)
    data = load_dataset(str(tmp_path / "set.npz"))
    parts = [data.train, data.validation, data.fit, data.calibration, data.test]
    assert [len(part) for part in parts] == [400, 50, 50, 50, 50]
    assert set.union(*(ids(part.x) for part in parts)) == set(range(600))
    for part in parts:
        assert part.x.shape[1:] == (1, 8, 8)
        assert torch.equal(part.y, part.index % 10)
    again = load_dataset(str(tmp_path / "set.npz"))
    assert torch.equal(again.calibration.x, data.calibration.x)
    assert data.name == "set"
    assert data.train.float().max() <= 1


def test_an_npz_may_bring_its_own_test_images(tmp_path):
    np.savez(tmp_path / "set.npz", x=numbered(120), x_test=numbered(7), y=np.zeros(120), y_test=np.ones(7))
    data = load_dataset(str(tmp_path / "set.npz"))
    parts = (data.train, data.validation, data.fit, data.calibration, data.test)
    assert [len(part) for part in parts] == [100, 10, 10, 3, 4]
    assert ids(data.train.x) | ids(data.validation.x) | ids(data.fit.x) == set(range(120))
    assert ids(data.calibration.x) | ids(data.test.x) == set(range(7))
    assert data.test.y.tolist() == [1] * 4


def test_a_folder_is_labelled_by_its_sub_folders(tmp_path):
    for i, image in enumerate(numbered(24)):
        folder = tmp_path / ("shirt" if i % 2 else "coat")
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    data = load_dataset(str(tmp_path))
    parts = (data.train, data.validation, data.fit, data.calibration, data.test)
    assert sum(len(part) for part in parts) == 24
    assert torch.equal(data.train.y, data.train.x[:, 0, 0, 0].long() % 2)


def test_rgb_arrays_become_channels_first(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (24, 8, 9, 3), np.uint8)
    np.savez(tmp_path / "set.npz", x=x)
    data = load_dataset(str(tmp_path / "set.npz"))
    assert data.train.shape == (3, 8, 9)
    assert data.train.y is None
    assert np.array_equal(data.train.x[0].numpy(), x[data.train.index[0]].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": numbered(24)}, "holds z; an array x"),
        ({"x": numbered(24) / 255}, "must be uint8"),
        ({"x": numbered(24)[0]}, "must be uint8"),
        ({"x": numbered(24), "y": np.arange(3)}, "24 images and y 3 labels"),
        ({"x": numbered(5)}, "5 images, at least 12"),
    ],
)
def test_bad_npz_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_dataset(str(tmp_path / "set.npz"))


def test_pickles_inside_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "set.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_dataset(str(tmp_path / "set.npz"))


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"'nope' is no data set .{', '.join(DATASETS)}"):
        load_dataset("nope")
    with pytest.raises(ValueError, match="holds no image"):
        load_dataset(str(tmp_path))
    for size in (8, 9):
        Image.new("L", (size, size)).save(tmp_path / f"{size}.png")
    with pytest.raises(ValueError, match="of one size"):
        load_dataset(str(tmp_path))
