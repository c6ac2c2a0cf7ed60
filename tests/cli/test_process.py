"""What only a process of its own can show: signals, pipes, the entry point."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent / "pixeldefend"


def test_the_help_imports_no_torch_and_the_program_calms_waiting_threads():
    code = """
import os, sys
from pixeldefend.cli.main import main
sys.argv = ["pixeldefend", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
assert os.environ["OMP_WAIT_POLICY"]
assert not {"torch", "numpy", "matplotlib", "foolbox"} & set(sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_no_half_written_output(detector, clean, tmp_path, how):
    output = tmp_path / "out.jsonl"
    output.write_text("what was there before")
    command = [str(PROGRAM), "screen", "-", "--detector", str(detector), "--format", "jsonl", "--output", str(output)]
    # a shell that runs the tests in the background lets their children ignore SIGINT
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, preexec_fn=heeded)
    process.stdin.write(f"{clean}/0.png\n".encode() * 200_000)
    process.stdin.close()
    while not list(tmp_path.glob(".out.jsonl.*")) and process.poll() is None:
        time.sleep(0.01)  # until it has begun to write
    assert process.poll() is None
    process.send_signal(how)
    assert process.wait(60) not in (0, 1)
    assert output.read_text() == "what was there before"
    if how != signal.SIGKILL:
        assert not list(tmp_path.glob(".out.jsonl.*"))


def test_a_reader_that_goes_away_is_no_traceback(detector, clean):
    command = f"{PROGRAM} screen - --detector {detector} --format jsonl | head -1"
    listed = f"{clean}/0.png\n" * 5000
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], input=listed, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_odd_names_go_through_pipes(detector, clean, tmp_path):
    odd = [os.fsencode(clean) + name for name in (b"/a\xff.png", b"/$\\foo$.png", b"/" + b"x" * 240 + b"\n.png")]
    for i, name in enumerate(odd):
        os.replace(clean / f"{i}.png", name)
    command = [PROGRAM, "screen", "-", "--detector", detector, "--format", "csv"]
    pictures = ["--heatmaps", tmp_path / "maps", "--picture", tmp_path / "sheet.png"]
    done = subprocess.run([*command, *pictures], input=b"\0".join(odd), capture_output=True)
    assert done.returncode == 0, done.stderr
    paths = [os.fsdecode(name).encode("utf-8", "backslashreplace").replace(b"\n", rb"\n") for name in odd]
    assert [line.split(b",")[0] for line in done.stdout.splitlines()[1:]] == paths  # and these are valid UTF-8
    assert len(list((tmp_path / "maps").iterdir())) == 3


# runs several commands in one process, each with streams of its own: that torch is imported once saves seconds
RUNNER = """
import os, shlex, sys
import torch
import pixeldefend.eval, pixeldefend.screening.pipeline, pixeldefend.screening.figures, pixeldefend.screening.purify
from pixeldefend.cli.main import main

torch.broadcast_shapes((1,), (1,))  # imports much

for number, line in enumerate(sys.argv[1:]):
    if not os.fork():
        redirections, *command = shlex.split(line)
        sys.argv = ["pixeldefend", *command]
        places = [one.split(">") for one in redirections.split()]
        for stream, target in sorted(places, key=lambda place: place[1] == "closed"):
            if target == "closed":
                os.close(int(stream))
                continue
            reading, place = os.pipe() if target == "broken" else (None, os.open(target, os.O_RDWR | os.O_CREAT, 0o644))
            if reading is not None:
                os.close(reading)
            os.dup2(place, int(stream))
            os.close(place)
        for name, stream, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
            try:
                setattr(sys, name, open(stream, mode, closefd=False))
            except OSError:
                setattr(sys, name, None)  # as Python does at its start
        status = 2
        try:
            main()
        except SystemExit as end:
            status = end.code
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # as Python does at its end, where a failure makes the status 120
        os._exit(status or 0)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    with open(f"{number}.status", "w") as file:
        file.write(str(status))
"""


def run(folder: Path, *lines: str) -> list[tuple[int, str]]:
    """Returns the status and the standard error (file "err") of each command line, which runs in the folder."""
    marked = [line.replace("ERR", f"{number}.err") for number, line in enumerate(lines)]
    subprocess.run([sys.executable, "-P", "-c", RUNNER, *marked], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    said = [folder / f"{number}.err" for number in range(len(lines))]
    return [
        (int((folder / f"{number}.status").read_text()), file.read_text() if file.exists() else "")
        for number, file in enumerate(said)
    ]


@pytest.mark.slow
def test_closed_broken_and_full_streams(detector, clean, tmp_path):
    screen = f"screen {clean} --detector {detector}"
    purify = f"purify {clean}/0.png --detector {detector} --out pure"
    lost = {  # standard output was needed and is lost: one line, except where its reader has gone
        f"'1>closed 2>ERR' {screen}": "it is closed",
        f"'1>/dev/full 2>ERR' {screen}": "No space left",
        f"'1>/dev/full 2>ERR' {screen} --format jsonl": "No space left",
        f"'1>/dev/full 2>ERR' {purify}": "No space left",
        "'1>/dev/full 2>ERR' --help": "No space left",
        "'1>closed 2>ERR' screen --help": "it is closed",
        "'1>/dev/full 2>ERR' leaderboard": "No space left",
        f"'1>out 2>ERR' {screen} --output /dev/full": "/dev/full: No space left",
        f"'0>closed 1>out 2>ERR' screen - --detector {detector}": "standard input: it is closed",
        f"'1>broken 2>ERR' {screen}": "",
        "'1>broken 2>ERR' --help": "",
        f"'1>closed 2>closed 0>closed' {screen}": "",
        f"'1>broken 2>broken' {screen}": "",
        "'1>out 2>closed' screen --nonsense": "",
        "'1>out 2>broken' nonsense": "",
    }
    delivered = [  # the verdicts are where they should be
        f"'1>out 2>closed' {screen}",
        f"'1>out 2>broken' {screen} --timing --drift",
        f"'1>out 2>/dev/full' {screen} --format csv",
        f"'1>closed 2>ERR' {screen} --output out.csv",
        f"'0>closed 1>out 2>ERR' {screen}",
    ]
    done = run(tmp_path, *lost, *delivered)
    for (line, reason), (status, said) in zip(lost.items(), done[: len(lost)], strict=True):
        assert status == 2, line
        assert len(said.splitlines()) == bool(reason), (line, said)
        assert reason in said
    for line, (status, said) in zip(delivered, done[len(lost) :], strict=True):
        assert status == 0, (line, said)
        assert "Traceback" not in said
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("environment", "encoding"),
    [
        ({"PYTHONIOENCODING": "cp1252"}, "cp1252"),
        ({"PYTHONIOENCODING": "utf-16:strict"}, "utf-16"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
    ],
)
def test_every_record_is_written_in_any_encoding(detector, clean, environment, encoding):
    for i, name in enumerate(("a😀.png".encode(), b"b\xff\x9b2J.png", b"=c\x1b[2J\n.png")):
        os.replace(clean / f"{i}.png", os.fsencode(clean) + b"/" + name)
    command = [PROGRAM, "screen", "*.png", "--detector", detector, "--format", "csv"]
    done = subprocess.run(command, cwd=clean, env={**os.environ, **environment}, capture_output=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert len(shown.splitlines()) == 4
    assert not set(shown) & {"\x1b", "\x9b"}
    assert any(line.startswith("'=c\\x1b[2J\\n.png,clean") for line in shown.splitlines())
