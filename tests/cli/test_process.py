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
    odd = [os.fsencode(clean) + name for name in (b"/a\xff.png", b"/$\\foo$.png", b"/" + b"x" * 240 + b".png")]
    for i, name in enumerate(odd):
        os.replace(clean / f"{i}.png", name)
    command = [PROGRAM, "screen", "-", "--detector", detector, "--format", "csv"]
    pictures = ["--heatmaps", tmp_path / "maps", "--picture", tmp_path / "sheet.png"]
    done = subprocess.run([*command, *pictures], input=b"\n".join(odd), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert [line.split(b",")[0] for line in done.stdout.splitlines()[1:]] == odd
    assert len(list((tmp_path / "maps").iterdir())) == 3
