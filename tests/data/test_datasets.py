import gc
import io
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pixeldefend.data import DATASETS, load_dataset


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
        ({"z": numbered(24)}, "holds z; wanted an array x"),
        ({"x": numbered(24) / 255}, "must be uint8"),
        ({"x": numbered(24)[0, 0]}, "must be uint8"),
        ({"x": numbered(24), "y": np.arange(3)}, "24 images and y 3 labels"),
        ({"x": numbered(5)}, "5 images; wanted at least 12"),
        ({"x": numbered(24)[:, :0]}, r"must be uint8 .* got uint8 \(24, 0, 8\)"),
        ({"x": numbered(24), "y": np.array(3)}, r"y in .* must be \(N,\) whole numbers, got int64 \(\)"),
        ({"x": numbered(24), "y": np.eye(24)}, r"must be \(N,\) whole numbers, got float64 \(24, 24\)"),
        ({"x": numbered(24), "y": np.arange(24) / 2}, "whole numbers, got float64"),
        ({"x": numbered(24), "y": np.full(24, np.nan)}, "whole numbers, got float64"),
        ({"x": numbered(24), "y": np.array(["shirt"] * 24)}, "whole numbers, got <U5"),
        ({"x": numbered(24), "x_test": numbered(1)}, "1 test images in x_test; wanted at least 2"),
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


def test_damaged_files_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", numbered(24))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"is not an .npz file"):
        load_dataset(str(tmp_path / "x.npz"))
    np.savez_compressed(tmp_path / "x.npz", x=np.random.RandomState(0).randint(0, 256, (24, 8, 8), np.uint8))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[700:710] = bytes(10)
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        load_dataset(str(tmp_path / "x.npz"))
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"x\.npz is not a readable \.npz file"):
        load_dataset(str(tmp_path / "x.npz"))


def npz_of(header: bytes, compression: int = 0) -> bytes:
    """An .npz file with one array, x, of this header and no numbers."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    data = archive.getvalue()
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.index(signature) + place
        data = data[:start] + compression.to_bytes(2, "little") + data[start + 2 :]
    return data


@pytest.mark.parametrize(
    "data",
    [
        npz_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000, 8, 8)}\n"),
        npz_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8\n"),
        npz_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8)}\n", compression=9),
    ],
    ids=["huge", "cut header", "unknown compression"],
)
def test_forged_archives_are_refused_and_closed(tmp_path, data):
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npz is damaged, holds pickled objects, or does not fit into memory"):
        load_dataset(str(tmp_path / "x.npz"))


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_archive_is_closed_again(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(ValueError, match="is not a readable"):
            load_dataset(str(tmp_path / "x.npz"))
        gc.collect()


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"'nope' is neither a data set .{', '.join(DATASETS)}"):
        load_dataset("nope")
    with pytest.raises(ValueError, match="holds no image"):
        load_dataset(str(tmp_path))
    for size in (8, 9):
        Image.new("L", (size, size)).save(tmp_path / f"{size}.png")
    with pytest.raises(ValueError, match="one size"):
        load_dataset(str(tmp_path))


# -- events that are no images -----------------------------------------------------------------------------------------


def test_levels_are_told_by_the_values(tmp_path):
    bits = np.random.RandomState(0).randint(0, 2, (48, 5)).astype(np.uint8)
    for name, x, levels in [("bits", bits, 2), ("bytes", bits * 200, 256), ("reals", bits * 0.3, None)]:
        np.savez(tmp_path / f"{name}.npz", x=x)
        data = load_dataset(str(tmp_path / f"{name}.npz"))
        assert data.train.levels == levels
        assert data.train.shape == (5,)
        assert data.train.float().dtype == torch.float32
    assert data.train.float().max().item() == pytest.approx(0.3)


def test_binary_images_stay_images(tmp_path):
    np.savez(tmp_path / "b.npz", x=numbered(24) % 2, x_test=numbered(4) % 2)
    data = load_dataset(str(tmp_path / "b.npz"))
    assert data.train.levels == data.test.levels == 2
    assert data.train.shape == (1, 8, 8)


def test_a_csv_file_of_numbers_with_a_line_of_names(tmp_path):
    x = np.random.RandomState(0).randn(36, 3)
    lines = [",".join(map(str, row)) for row in x]
    (tmp_path / "t.csv").write_text("\n".join(["height,width,weight", *lines]) + "\n")
    data = load_dataset(str(tmp_path / "t.csv"))
    assert (len(data.train), data.train.shape, data.train.levels) == (24, (3,), None)
    assert data.train.x.numpy() == pytest.approx(x[data.train.index.numpy()], abs=1e-6)
    (tmp_path / "b.csv").write_text("\n".join(["0,1,1", "1,0,0"] * 12))
    assert load_dataset(str(tmp_path / "b.csv")).train.levels == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("height,width\n", "is empty"),
        ("1.0,,3\n1,2,3\n", "must hold only numbers"),
        ("1,1e300\n3,4\n", "1 missing or infinite numbers"),
        ("1,2\n3\n", "row 2 has 1 numbers, row 1 has 2"),
        ("1,2\n3,four\n", "must hold only numbers"),
        ("1,2\n3,nan\n", "1 missing or infinite numbers"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        load_dataset(str(tmp_path / "t.csv"))


def test_text_is_cut_into_consecutive_pieces(tmp_path):
    text = "".join(chr(ord("a") + i % 26) for i in range(12 * 40 + 3)) + "é"
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    data = load_dataset(str(tmp_path / "t.txt"), length=10)
    parts = [data.train, data.validation, data.fit, data.calibration, data.test]
    assert [len(part) for part in parts] == [32, 4, 4, 4, 4]
    assert data.vocabulary == "abcdefghijklmnopqrstuvwxyzé"
    assert data.train.levels == 27
    joined = "".join(data.vocabulary[i] for part in parts for i in part.x.flatten().tolist())
    assert joined == text[:480]


def test_texts_that_cannot_be_modelled_are_refused(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        load_dataset(str(tmp_path / "t.txt"))
    (tmp_path / "t.txt").write_text("aaaa")
    with pytest.raises(ValueError, match="1 different characters; wanted 2 to 256"):
        load_dataset(str(tmp_path / "t.txt"))
    (tmp_path / "t.txt").write_text("ab" * 50)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        load_dataset(str(tmp_path / "t.txt"), length=0)
