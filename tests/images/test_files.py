"""The search for image files: whatever names and links there are, each image is found once."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import needs_closed_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pixeldefend.images.files import SKIP_REASONS, NotFound, find_files, skip_reason

ODD_NAMES = [
    ".hidden.png", "_under.png", "a?b.png", "a%20b.png", "a#b.png", "a;b.png", "a*b.png", "a[1].png", "new\nline.png",
    "no suffix", "UPPER.PNG", "-dash.png", " space .png", "s://x.png".replace("/", "_"), os.fsdecode(b"\xff\xfe.png"),
    os.fsdecode(b"\xff"), "üñî.png", "…",
]  # fmt: skip


@pytest.fixture(scope="session")
def png(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("png") / "image.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    return path.read_bytes()


def paths(*sources):
    """Returns what is found, and how many were skipped for which reason."""
    skipped = Counter()

    def skip(path, reason):
        skipped[reason] += 1

    return list(find_files(map(str, sources), skip)), skipped


def test_a_name_is_only_a_name(tmp_path, png):
    for name in ODD_NAMES:
        (tmp_path / name).write_bytes(png)
        (tmp_path / "dir" / f"{name}.d").mkdir(parents=True)
        (tmp_path / "dir" / f"{name}.d" / name).write_bytes(png)
    found, skipped = paths(tmp_path)
    expected = [str(tmp_path / name) for name in sorted(ODD_NAMES)]
    expected += [str(tmp_path / "dir" / f"{name}.d" / name) for name in sorted(ODD_NAMES, key=lambda n: f"{n}.d")]
    assert found == expected
    assert not skipped
    for path in expected:  # and by itself
        assert paths(path) == ([path], Counter())


def test_what_is_skipped_has_a_reason(tmp_path, png):
    (tmp_path / "a.png").write_text("named like an image")
    (tmp_path / "renamed").write_bytes(png)
    (tmp_path / "notes.txt").write_text("BMW brochure")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "back").symlink_to(tmp_path)
    listed = []
    found = list(find_files([str(tmp_path / "sub" / "..")], lambda *what: listed.append(what)))
    assert [Path(path).name for path in found] == ["a.png", "gone.png", "renamed"]
    reasons = {Path(path).name: reason for path, reason in listed}
    assert reasons.items() >= {
        ("notes.txt", "not an image"),
        ("gone", "broken link"),
        ("self", "broken link"),
        ("pipe", "not a file"),
        ("pipe.png", "not a file"),
        ("back", "repeated folder"),
    }
    assert set(reasons.values()) <= SKIP_REASONS.keys()
    assert skip_reason(str(tmp_path / "notes.txt")) == "not an image"
    assert skip_reason(str(tmp_path / "renamed")) is None


@needs_closed_files
def test_what_cannot_be_read_is_told(tmp_path, png):
    (tmp_path / "a").write_bytes(png)
    (tmp_path / "a").chmod(0)
    (tmp_path / "closed").mkdir(0)
    found, skipped = paths(tmp_path)
    assert [(what.path, what.kind) for what in found] == [(str(tmp_path / "closed"), "unreadable")]
    assert skipped == {"unreadable": 1}
    for pattern in ("closed/*.png", "*/*.png", "*/x.png", "**/*.png", "**/x.png", "closed/**", "c*/x/*"):
        (found,) = paths(tmp_path / pattern)[0]
        assert (found.kind, found.reason) == ("unreadable", "Permission denied"), pattern
    (tmp_path / "closed").chmod(0o400)  # its names can be read, its files cannot
    (tmp_path / "link").symlink_to("closed/nothing")
    assert skip_reason(str(tmp_path / "link")) == "unreadable"
    (tmp_path / "closed").chmod(0o700)
    assert skip_reason(str(tmp_path / "link")) == "broken link"


def test_a_folder_is_searched_once_under_its_own_path(tmp_path, png):
    (tmp_path / "in" / "real" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "real" / "deep" / "a.png").write_bytes(png)
    (tmp_path / "elsewhere" / "b.png").write_bytes(png)
    (tmp_path / "in" / "alias").symlink_to("real")  # sorted before it
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "out2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "real" / "deep" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b_link.png").symlink_to(tmp_path / "elsewhere" / "b.png")  # links to files are files
    expected = ["b_link.png", "real/deep/a.png", "out/b.png"]
    found, skipped = paths(tmp_path / "in")
    assert found == [str(tmp_path / "in" / name) for name in expected]
    assert skipped == {"repeated folder": 3}
    for pattern in ("in/**", "in/**/*.png"):
        assert sorted(paths(tmp_path / pattern)[0]) == sorted(str(tmp_path / "in" / name) for name in expected)
    # what a pattern matches is named by it, and may be reached by a link beside
    assert {Path(path).name for path in paths(tmp_path / "in/*")[0]} == {"b_link.png", "a.png", "b.png"}


def test_patterns(tmp_path, png, monkeypatch):
    for name in ("0.png", "1.png", ".2.png", "b/3.png", "b/c/4.png", "b/c/notes.txt", "a[1].png", "d/e/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"text" if name.endswith("txt") else png)
    monkeypatch.chdir(tmp_path)

    def found(pattern):
        return paths(pattern)[0]

    assert found("*.png") == [".2.png", "0.png", "1.png", "a[1].png"]
    assert found("./[01].png") == ["./0.png", "./1.png"]
    assert found("a[1].png") == ["a[1].png"]
    assert found(f"{tmp_path}/?.png") == [f"{tmp_path}/0.png", f"{tmp_path}/1.png"]
    assert found("**/*.png") == [".2.png", "0.png", "1.png", "a[1].png", "b/3.png", "b/c/4.png"]
    assert found("b*") == found("b/*") == ["b/3.png", "b/c/4.png"], "a folder that a pattern matches is searched"
    assert found("**/c") == found("**/c/") == ["b/c/4.png"]
    assert [path.removeprefix("./") for path in found("**")] == found("**/*.png")
    assert paths("b/**/*") == (["b/3.png", "b/c/4.png", "b/c/notes.txt"], Counter()), "named by the pattern"
    for source in ("*.jpg", "d/**/y*", "x*/a.png"):
        assert found(source) == [NotFound(source, "no file matches the pattern", "nothing found")]
    assert [what.path for what in found("d")] == ["d"]
    assert found("missing.png") == ["missing.png"]


NAMES = st.sampled_from(["a", "b.png", ".c", "_d.PNG", "e#?.jpg", "f%20;", "g\n", os.fsdecode(b"\xff.bmp")])
KINDS = st.sampled_from(["folder", "image", "text", "link up", "link across", "dangling"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), KINDS), max_size=25))
def test_every_image_of_a_tree_is_found_once_and_nothing_is_lost(tmp_path_factory, png, made):
    root = tmp_path_factory.mktemp("tree") / "root"
    root.mkdir()
    for parts, kind in made:
        path = root.joinpath(*parts)
        if any(parent.is_file() or parent.is_symlink() for parent in [path, *path.parents]) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind in ("image", "text"):
            path.write_bytes(png if kind == "image" else b"text")
        else:
            path.symlink_to({"link up": "..", "link across": root / "a", "dangling": "nowhere"}[kind])
    skipped = []
    found = [path for path in find_files([str(root)], lambda *what: skipped.append(what)) if isinstance(path, str)]
    # the real files, each under its own path, are found or skipped, once
    real = {Path(folder, name) for folder, _, names in os.walk(root) for name in names}
    told = [Path(path) for path in found] + [Path(path) for path, reason in skipped if reason != "repeated folder"]
    assert sorted(told) == sorted(real)
    content = {path for path in real if path.is_file() and path.read_bytes() == png}
    assert content <= set(map(Path, found))
