"""What all commands share: help, errors, old names of options."""

import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from pixeldefend.cli import options
from pixeldefend.cli.errors import EXTRAS, extra_of
from pixeldefend.cli.main import app, main
from pixeldefend.cli.names import REGISTRIES, SHIPPED, names
from pixeldefend.data import DATASETS, Source
from pixeldefend.densities import DENSITIES
from pixeldefend.eval import SUITES
from pixeldefend.scores import SCORES

COMMANDS = [
    *(["screen"], ["purify"], ["serve"], ["watch"], ["log"], ["recalibrate"], ["calibrate"], ["sample"]),
    *(["benchmark"], ["compare"], ["leaderboard"], ["train", "density"], ["train", "classifier"]),
]


def words(text: str) -> str:
    """The words of a help text, without the lines around them."""
    return " ".join(text.replace("│", " ").split())


def test_the_help_names_the_commands(pixeldefend):
    result = pixeldefend("--help")
    assert result.exit_code == 0
    assert all(command[0] in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_is_complete(pixeldefend, command):
    result = pixeldefend(*command, "--help")
    assert result.exit_code == 0
    assert not any(f"{{{placeholder}}}" in words(result.stdout) for placeholder in (*REGISTRIES, *SHIPPED))
    assert not any(old in result.stdout for old in options.RENAMED.get(command[-1], ()))


@pytest.mark.parametrize("placeholder", [*REGISTRIES, *SHIPPED])
def test_every_placeholder_has_names(placeholder):
    assert names(placeholder)


def test_help_lists_the_registries(pixeldefend):
    listed = words(pixeldefend("benchmark", "--help").stdout)
    assert all(name in listed for name in (*SCORES, *SUITES, *DATASETS))
    listed = words(pixeldefend("train", "density", "--help").stdout)
    assert all(name in listed for name in DENSITIES)


def test_a_new_data_set_is_one_function_and_one_line(pixeldefend, monkeypatch, tmp_path):
    def read(data_dir):
        return Source(np.arange(24 * 64).astype(np.uint8).reshape(24, 8, 8))

    monkeypatch.setitem(DATASETS, "counted", read)
    assert "counted" in words(pixeldefend("train", "density", "--help").stdout)
    assert "counted" in words(pixeldefend("calibrate", "--help").stdout)
    model = ("--model", "fvsbn", "--set", "head=bernoulli", "--epochs", "1", "--accelerator", "cpu")
    made = pixeldefend("train", "density", "--data", "counted", "--out", tmp_path, *model)
    assert made.exit_code == 0, made.stderr
    assert (tmp_path / "density.safetensors").is_file()


@pytest.mark.parametrize("arguments", [("--debug", "log", "no"), ("log", "no", "--debug"), ("log", "--debug", "no")])
def test_debug_shows_the_traceback_of_bad_input(pixeldefend, arguments):
    result = pixeldefend(*arguments)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("pixeldefend: ")


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_debug_may_come_from_the_environment(pixeldefend, monkeypatch, value, shown):
    monkeypatch.setenv("PIXELDEFEND_DEBUG", value)
    assert ("Traceback" in pixeldefend("log", "no").stderr) == shown


def test_what_follows_a_double_dash_is_no_option(refused):
    refused("log", "--", "--debug", names="--debug")


def test_bad_input_is_one_line(refused, clean, tmp_path):
    refused("log", tmp_path / "none.sqlite", names="none.sqlite")
    refused("screen", clean, "--device", "abacus", names="abacus")
    refused("screen", clean, "--heatmaps", clean / "0.png", names="0.png")
    refused("compare", tmp_path, tmp_path, names=str(tmp_path))


def test_a_bug_is_a_traceback_and_exits_with_2(monkeypatch, capsys):
    def broken(**options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("pixeldefend.eval.leaderboard_table", lambda folder: broken())
    assert isinstance(CliRunner().invoke(app, ["leaderboard"]).exception, RuntimeError)
    monkeypatch.setattr("sys.argv", ["pixeldefend", "leaderboard"])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr(sys.modules[main.__module__], "prepare_process", lambda: None)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "RuntimeError: a bug" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_no_bug(refused, monkeypatch, error):
    def too_large(folder):
        raise error

    monkeypatch.setattr("pixeldefend.eval.leaderboard_table", too_large)
    refused("leaderboard", names="out of memory")


@pytest.mark.parametrize(("extra", "packages"), EXTRAS.items())
def test_a_missing_package_names_its_extra(refused, monkeypatch, extra, packages):
    def missing(folder):
        raise ModuleNotFoundError(f"No module named '{packages[-1]}'", name=f"{packages[-1]}.inside")

    monkeypatch.setattr("pixeldefend.eval.leaderboard_table", missing)
    assert extra_of(f"{packages[-1]}.inside") is not None
    refused("leaderboard", names=f"pixeldefend[{extra_of(packages[-1])}]")


def test_another_missing_package_is_a_bug(monkeypatch):
    def missing(folder):
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    monkeypatch.setattr("pixeldefend.eval.leaderboard_table", missing)
    assert isinstance(CliRunner().invoke(app, ["leaderboard"]).exception, ModuleNotFoundError)


@pytest.mark.parametrize(("command", "table"), options.RENAMED.items())
def test_old_names_of_options_work_with_a_warning(capsys, command, table):
    for old, new in table.items():
        assert options.renamed(command, [old, "1", f"{old}=2", "-x"]) == [new, "1", f"{new}=2", "-x"]
        warned = capsys.readouterr().err.splitlines()
        assert len(warned) == 2
        assert all(old in line and new in line for line in warned)


def test_an_old_name_reaches_its_command(pixeldefend, detector, clean):
    result = pixeldefend("screen", clean, "--detector", detector, "--watch")
    assert result.exit_code == 0
    assert "--drift" in result.stderr.splitlines()[0]
    assert "e-values" in result.stderr


def test_the_names_of_other_commands_are_left_alone(pixeldefend, detector):
    assert options.renamed("purify", ["--watch", "--score"]) == ["--watch", "--score"]
    assert pixeldefend("purify", "x", "--out", "y", "--watch").exit_code == 2
