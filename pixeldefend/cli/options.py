"""The options that several commands share, the class of all commands, and the old names of options."""

from __future__ import annotations

import errno
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .errors import DEBUG_VARIABLE, debug_by_environment, reported
from .names import filled
from .output import note
from .streams import named

# command -> {old name of an option: its name}; old names work until the release after the one that renamed them
RENAMED = {
    "screen": {"--watch": "--drift"},
    "calibrate": {"--score": "--statistic", "--transformation": "--corruption"},
    "benchmark": {
        "--scores": "--statistics",
        "--controls": "--corruptions",
        "--keep": "--cache",
        "--dear-limit": "--expensive-limit",
        "--dear-eps": "--expensive-eps",
    },
}


class FrameChoice(StrEnum):
    """The frames of an animated image that are screened."""

    first = "first"
    all = "all"


class Command(TyperCommand):
    """A command that also takes the old names of its options, and whose help lists names from the registries."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options, rest = _at_double_dash(args)
        return super().parse_args(ctx, renamed(self.name or "", options) + rest)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.help = "\n\n".join(" ".join(part.split()) for part in (filled(self.help) or "").split("\n\n"))
        for parameter in self.params:
            if getattr(parameter, "help", None):
                parameter.help = filled(parameter.help)  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


class Program(TyperGroup):
    """The program, which takes --debug before and after the command.

    Every error of a command passes here.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with reported(lambda: "--debug" in args or debug_by_environment()):  # of the help, for example
            return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.ensure_object(dict)["arguments"] = list(args)  # which results files quote
        options, rest = _at_double_dash(args)
        if "--debug" in options:
            options = ["--debug", *(argument for argument in options if argument != "--debug")]
        return super().parse_args(ctx, options + rest)

    def invoke(self, ctx: Any) -> Any:
        with reported(lambda: bool(ctx.ensure_object(dict).get("debug"))):
            return super().invoke(ctx)


def _at_double_dash(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Splits arguments at "--", after which there are no options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end:]


def renamed(command: str, arguments: list[str]) -> list[str]:
    """Replaces the old names of options by the new ones, with a warning on standard error.

    Args:
        command: The name of the command.
        arguments: The arguments after it.

    Returns:
        The arguments under the new names.
    """
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if new := RENAMED.get(command, {}).get(name):
            note(f"pixeldefend: {name} is now called {new}; the next release removes the old name")
            argument = f"{new}{equals}{value}"
        found.append(argument)
    return found


def program(
    ctx: typer.Context,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show the traceback of every error. The option may stand before or after the command. The environment "
            f"variable {DEBUG_VARIABLE}=1 does the same.",
        ),
    ] = False,
) -> None:
    """Find adversarial images by their probability under a density model of clean images."""
    ctx.ensure_object(dict)["debug"] = debug or debug_by_environment()


def sources_of(paths: list[str]) -> list[str]:
    """Returns the sources of a command; "-" stands for those listed on standard input, one per line or NUL byte."""
    return [source for path in paths for source in (_standard_input() if path == "-" else [path]) if source]


def _standard_input() -> list[str]:
    try:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "")
        listed = os.fsdecode(sys.stdin.buffer.read())
    except OSError as error:
        raise named(error, "standard input") from None
    # names may hold line breaks, but no NUL, which therefore ends names that `find -print0` lists
    return listed.split("\0") if "\0" in listed else listed.replace("\r\n", "\n").split("\n")


def names_of(listed: str) -> list[str] | None:
    """Returns the different names of a comma-separated list, or None if there are none."""
    return list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip())) or None


def checked_device(name: str) -> str:
    """Returns the name of a device that can be used.

    Args:
        name: The device, as torch names it.

    Raises:
        ParameterError: If this machine has no such device.
    """
    if name != "cpu":  # torch takes seconds to import
        from ..devices import check_device

        check_device(name)
    return name


Paths = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders or glob patterns. A dash (-) reads a list of files from standard input, one a line, or "
        "each followed by a NUL byte, as find -print0 lists them."
    ),
]
DetectorName = Annotated[
    str | None,
    typer.Option(
        "--detector",
        help="The name of a shipped detector ({detectors}) or the path of a saved one. By default, the "
        "size of an image selects a shipped detector.",
    ),
]
Fpr = Annotated[
    float | None,
    typer.Option(
        help="The false-alarm rate: the largest share of clean images that are flagged. The default is the rate of the "
        "detector; that of the shipped detectors is 0.01."
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="The backend that runs the density: {backends}, or auto for the fastest on this machine. The default is "
        "the backend of the detector. Detectors of photographs have one only."
    ),
]
FramesOfAnimations = Annotated[
    FrameChoice | None,
    typer.Option(
        "--frames",
        help="Which frames of an animated image, or pages of a TIFF file, are examined. With all, the result is that "
        "of the most suspicious one. By default, an image with several is an error.",
    ),
]
Convert = Annotated[
    bool,
    typer.Option(
        "--convert",
        help="Convert images that are otherwise an error: 16-bit, CMYK and translucent images, and TIFF, AVIF and HEIC "
        "files (HEIC needs the extra 'heic').",
    ),
]
Device = Annotated[
    str, typer.Option(callback=checked_device, help="The device, as torch names it: cpu, cuda, cuda:1 and so on.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="The number of images that are processed at once.")]
_DATA = typer.Option(
    "--data",
    help="The data set: a name ({datasets}), a folder of images or audio, or a file ({suffixes}). An .npz file holds "
    "images or rows in x, and may hold labels in y.",
)
Data = Annotated[str, _DATA]
OptionalData = Annotated[str | None, _DATA]
DataDir = Annotated[
    Path, typer.Option(help="The folder for named data sets. A data set that is not there is downloaded.")
]
Log = Annotated[Path, typer.Option("--log", help="The audit log, an SQLite file. It is created if it does not exist.")]
MaxRows = Annotated[int | None, typer.Option(min=1, help="The largest number of rows that the log keeps.")]
MaxDays = Annotated[float | None, typer.Option(help="The number of days after which a row of the log is deleted.")]
DEFAULT_LOG = Path("pixeldefend-log.sqlite")
