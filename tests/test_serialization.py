import os
import stat

import pytest
import torch

from pixeldefend.errors import ModelError
from pixeldefend.serialization import check_writable, load_tensors, save_tensors, sha256_of, whole_file


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        print("half of the new", file=file, flush=True) or 1 / 0
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]
    with whole_file(path) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.txt"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_the_mode_is_the_umask_s_which_is_left_alone(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            # all threads share it: for a moment there would be none, and two at once would leave it so
            patch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
            with whole_file(tmp_path / "x") as file:
                file.write("new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="nowhere"),
        whole_file(tmp_path / "nowhere" / "x"),
    ):
        pass


def test_tensors_and_meta_come_back(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(2, 3), "b": torch.arange(4), "c": torch.ones(2, dtype=torch.bfloat16)}
    save_tensors(path, tensors, {"kind": "test", "n": 1.5, "none": None})
    loaded, meta = load_tensors(path)
    assert meta == {"kind": "test", "n": 1.5, "none": None}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
    assert len(sha256_of(path)) == 64


def test_a_foreign_safetensors_file_is_named(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        load_tensors(tmp_path / "x.safetensors")


def test_a_damaged_or_altered_file_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(100)}, {"kind": "test"})
    whole = path.read_bytes()
    for damaged in (whole[:-1] + b"\0", whole[:-8], b"", whole.replace(b"test", b"rest")):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"x\.safetensors"):
            load_tensors(path)
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "missing")


def test_what_cannot_be_a_file_is_an_os_error(tmp_path):
    check_writable(tmp_path / "new")
    with pytest.raises(IsADirectoryError):
        check_writable(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "nowhere" / "new")


def test_names_as_long_as_a_file_may_have(tmp_path):
    for name in ("x" * 255, "漢" * 85, os.fsdecode(b"\xff" * 255)):
        with whole_file(tmp_path / name) as file:
            file.write("new")
        assert (tmp_path / name).read_text() == "new"
    assert len(os.listdir(tmp_path)) == 3


def test_text_is_utf_8_whatever_the_names_in_it(tmp_path):
    with whole_file(tmp_path / "x") as file:
        file.write("漢" + os.fsdecode(b"\xff"))
    assert (tmp_path / "x").read_bytes().decode() == "漢\\udcff"


def test_an_error_names_the_file(tmp_path, monkeypatch):
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match="/dev/full") as caught, whole_file("/dev/full") as file:
            file.write("x")
        assert caught.value.filename == "/dev/full"
    path = tmp_path / "x"
    path.write_text("old")

    def full(*files):
        raise OSError(28, "No space left on device", *[str(file) for file in files[:1] if len(files) > 1])

    for patched in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, patched, full)
            with pytest.raises(OSError, match="x'") as caught, whole_file(path) as file:
                file.write("new")
        assert caught.value.filename == str(path)
        assert os.listdir(tmp_path) == ["x"]
    assert path.read_text() == "old"
