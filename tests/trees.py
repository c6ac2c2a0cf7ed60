"""Trees of files with whatever names, links and kinds of files a file system allows."""

import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from helpers import clean_images, noise
from hypothesis import strategies as st
from PIL import Image


def encoded(pixels: np.ndarray, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


# what a file may hold
CONTENTS = {
    "clean": encoded(clean_images(1)[0]),
    "noise": encoded(noise(1)[0]),
    "other noise": encoded(noise(1, seed=1)[0], "BMP"),
    "wrong size": encoded(np.zeros((3, 5), np.uint8)),
    "damaged": encoded(clean_images(1)[0])[:60],
    "text": b"no image",
    "table": b"PAR1, but no table",
    "nothing": b"",
}
NAMES = st.sampled_from([
    "a", "b.png", "C.JPG", ".d.png", ".e", "_f.png", "_g", "h?.png", "i*.bmp", "j[1].webp", "k%20#;&.png", " l .png",
    "m\n.png", "n\t\x1b[31m", "o.parquet", "p.parquet", "q\\r.png", "-s.png", "~", "t.png.",
    os.fsdecode(b"\xff.png"), os.fsdecode(b"u\xfe"), "漢.png", "e\u0301.png", "\u202egnp.exe",
    "x" * 251 + ".png",
])  # fmt: skip
KINDS = st.sampled_from([
    *CONTENTS, "clean", "noise", "folder", "closed folder", "closed file", "pipe", "socket", "link up", "link to root",
    "link across", "link outside", "link to file", "link to itself", "link to nothing",
])  # fmt: skip
TREES = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), KINDS), max_size=20)


@contextmanager
def grown(folder: Path, tree: list[tuple[list[str], str]]) -> Iterator[Path]:
    """Makes a tree in a folder, and yields its root. What is impossible, such as a file in a file, is left out.

    Beside the root stands a folder `outside`, to which links may lead. Closed files and folders are opened at the end.
    """
    root, outside = folder / "root", folder / "outside"
    for made in (root, outside / "deep"):
        made.mkdir(parents=True)
    (outside / "deep" / "_o.png").write_bytes(CONTENTS["noise"])
    (outside / "deep" / "back").symlink_to(root)
    (outside / "o").write_bytes(CONTENTS["clean"])
    closed = []
    for parts, kind in tree:
        path = root.joinpath(*parts)
        if os.path.lexists(path) or os.path.realpath(path.parent) != str(path.parent):  # it would lie elsewhere
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:  # a file or a link to itself is in the way
            continue
        _make(path, kind, root, outside)
        if kind.startswith("closed"):
            closed.append(path)
    for path in closed:
        path.chmod(0)
    try:
        yield root
    finally:
        for path in closed:
            path.chmod(0o700)


def _make(path: Path, kind: str, root: Path, outside: Path) -> None:
    if kind in CONTENTS:
        path.write_bytes(CONTENTS[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "closed folder":
        path.mkdir()
        (path / "in.png").write_bytes(CONTENTS["clean"])
    elif kind == "closed file":
        path.write_bytes(CONTENTS["noise"])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        _make_socket(path)
    else:
        target = {
            "link up": "..",
            "link to root": root,
            "link across": root / "a",
            "link outside": outside,
            "link to file": outside / "o",
            "link to itself": path.name,
            "link to nothing": "nowhere",
        }[kind]
        path.symlink_to(target)


def _make_socket(path: Path) -> None:
    """Makes a socket. Its address would be too long, so it is made in a folder with a short one."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/s")
        os.rename(path.parent / "s", path)
    finally:
        os.close(folder)
