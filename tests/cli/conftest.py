"""The command line in this process: `pixeldefend("screen", folder, "--format", "jsonl")`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_images
from PIL import Image
from typer.testing import CliRunner, Result

from pixeldefend.cli.main import app


@pytest.fixture(scope="session")
def pixeldefend() -> Callable[..., Result]:
    """Runs a command. An exception that the program would show as a traceback is raised."""

    def run(*arguments: Any, stdin: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def refused(pixeldefend) -> Callable[..., None]:
    """Runs a command that must fail with one line on standard error, which names a value."""

    def run(*arguments: Any, names: str) -> None:
        result = pixeldefend(*arguments)
        assert result.exit_code == 2, result.stderr
        assert result.stderr.startswith("pixeldefend: ")
        assert len(result.stderr.splitlines()) == 1
        assert names in result.stderr

    return run


@pytest.fixture(scope="session")
def detector(tiny_detector, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "tiny.safetensors"
    tiny_detector.save(path)
    return path


@pytest.fixture
def clean(tmp_path) -> Path:
    """A folder of three clean images."""
    folder = tmp_path / "clean"
    folder.mkdir()
    for i, image in enumerate(clean_images(3, seed=9)):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder
