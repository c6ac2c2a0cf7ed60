"""Every block of shell and Python in README and docs runs, or names commands and options that exist.

A comment before a block says what is done with it. Without one, the block runs. `<!-- slow -->` runs it among the slow
tests. `<!-- not run: reason -->` checks its commands against `--help`. The Python blocks of a page share a namespace.
All pages share a folder, which holds the files that they tell their readers to have.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import clean_images
from PIL import Image

from pixeldefend.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>slow|not run:[^\n]*?) -->\n+)?"
    r"^```(?P<language>sh|bash|shell|python|console)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# what may flag an image, and says so by its exit status
SCREENS = ("screen", "watch")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    mark: str
    where: str

    @property
    def reason(self) -> str | None:
        """Why it is not run, or None if it is."""
        return self.mark.removeprefix("not run:").strip() if self.mark.startswith("not run") else None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text[: match.start("code")].count("\n") + 1
        where = f"{page.relative_to(ROOT)}:{line}"
        found.append(Block(match["language"], match["code"], match["mark"] or "", where))
    return found


ALL = {page: blocks(page) for page in PAGES}
NOT_RUN = [block for found in ALL.values() for block in found if block.reason is not None]


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(code: str) -> list[str]:
    """The lines of a block, continued ones joined, without comments."""
    joined = code.replace("\\\n", " ")
    lines = (re.sub(r"(?:^|\s+)#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


@pytest.fixture(scope="session")
def folder_of_readers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages tell their readers to have: examples/, incoming/, clean.npz, my-images/ and new-images/."""
    folder = tmp_path_factory.mktemp("readers")
    shutil.copytree(ROOT / "examples", folder / "examples")
    with np.load(ROOT / "tests" / "data" / "fashion_mnist_test_500.npz") as sample:
        np.savez(folder / "clean.npz", **sample)
    shutil.copytree(
        ROOT / "examples" / "fashion-mnist",
        folder / "incoming",
        ignore=shutil.ignore_patterns("[c-p]*", "LICENSE", "*.py"),
    )
    for name, count, seed in (("my-images", 1200, 0), ("new-images", 3, 1)):
        (folder / name).mkdir()
        for i, image in enumerate(clean_images(count, seed=seed)):
            Image.fromarray(image).save(folder / name / f"{i:04}.png")
    return folder


@contextlib.contextmanager
def reader_in(folder: Path) -> Iterator[None]:
    state = torch.get_rng_state()
    threads, flags, environment = torch.get_num_threads(), sys.argv, dict(os.environ)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)
    sys.argv = flags
    os.environ.clear()
    os.environ.update(environment)


def in_process(command: str) -> int:
    sys.argv = shlex.split(command)
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def run_shell(block: Block, folder: Path) -> None:
    """Runs plain commands of ours in this process, which spares the time to import torch, and all else by a shell."""
    for command in commands(block.code):
        if command.startswith("pixeldefend ") and not re.search(r"[|<>;&]", command):
            status = in_process(command)
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            arguments = ["bash", "-c", f"set -uo pipefail; {command}"]
            done = subprocess.run(
                arguments, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, timeout=300
            )
            status = done.returncode
        flagging = any(f"pixeldefend {name}" in command for name in SCREENS)
        assert status in ((0, 1) if flagging else (0,)), f"{block.where}: exit status {status} of {command}"


def run_page(page: Path, folder: Path, *, slow: bool) -> None:
    namespace: dict[str, object] = {"__name__": "snippet"}
    with reader_in(folder):
        for block in ALL[page]:
            if block.reason is not None or (block.mark == "slow" and not slow):
                continue
            if block.language == "python":
                line = int(block.where.rpartition(":")[2])
                exec(compile("\n" * line + block.code, str(page), "exec"), namespace)
            else:
                run_shell(block, folder)


RUN = [page for page, found in ALL.items() if any(block.mark == "" for block in found)]
SLOW = [page for page, found in ALL.items() if any(block.mark == "slow" for block in found)]


@pytest.mark.parametrize("page", RUN, ids=ids)
def test_blocks_run(page: Path, folder_of_readers: Path) -> None:
    run_page(page, folder_of_readers, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=ids)
def test_slow_blocks_run(page: Path, folder_of_readers: Path) -> None:
    run_page(page, folder_of_readers, slow=True)


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    assert all(block.reason for block in NOT_RUN), [block.where for block in NOT_RUN if not block.reason]
    assert len(NOT_RUN) <= 22
    python = [block for block in NOT_RUN if block.language == "python"]
    assert len(python) <= 2


def help_of(command: tuple[str, ...]) -> str:
    """What `pixeldefend COMMAND --help` prints, on lines that are wide enough for everything."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setenv("COLUMNS", "300")
        patch.setattr(sys, "argv", ["pixeldefend", *command, "--help"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code, f"there is no command {' '.join(command)}"
    return output.getvalue()


OURS = [
    pytest.param(command, id=f"{block.where} {command[:40]}")
    for block in NOT_RUN
    if block.language != "python"
    for command in commands(block.code)
    if command.startswith("pixeldefend ")
]


@pytest.mark.parametrize("command", OURS)
def test_commands_that_are_not_run_exist(command: str) -> None:
    words = shlex.split(command)[1:]
    name = tuple(words[:2] if words[0] == "train" else words[:1])
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", help_of(name)))
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known, f"{sorted(used - known)} of {command}"


MADE = [
    pytest.param(command, id=f"{block.where} {command}")
    for block in NOT_RUN
    for command in commands(block.code)
    if command.startswith("make ")
]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("command", MADE)
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
