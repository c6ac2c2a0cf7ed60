"""What only a process of its own can show: signals, pipes, the entry point."""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from programs import NAMES, Programs


def test_the_help_imports_no_torch_and_the_program_prepares_python():
    code = """
import atexit, gc, os, sys
from pixeldefend.cli.main import main
atexit.register(lambda: print("frozen", gc.get_freeze_count()))  # called after what `main` registers
sys.argv = ["pixeldefend", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
assert os.environ["OMP_WAIT_POLICY"]
assert gc.get_threshold()[0] >= 10_000
assert not {"torch", "numpy", "matplotlib", "foolbox"} & set(sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("frozen")[1]) > 1000  # no time is spent on them when Python ends


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_no_half_written_output(programs, detector, clean, tmp_path, how):
    output = tmp_path / "out.jsonl"
    output.write_text("what was there before")
    (tmp_path / "list").write_text(f"{clean}/0.png\n" * 200_000)
    command = ["screen", "-", "--detector", detector, "--format", "jsonl", "--output", output]
    process = programs.start(*command, folder=tmp_path, stdin="list")
    while not any(path.stat().st_size for path in tmp_path.glob(".out.jsonl.*")) and process.poll() is None:
        time.sleep(0.01)  # until it has begun to write
    assert process.poll() is None
    process.send_signal(how)
    assert process.wait(60) not in (0, 1)
    assert output.read_text() == "what was there before"
    if how != signal.SIGKILL:
        assert not list(tmp_path.glob(".out.jsonl.*"))


def test_a_reader_that_goes_away_is_no_traceback(programs, detector, clean, tmp_path):
    (tmp_path / "list").write_text(f"{clean}/0.png\n" * 5000)
    reading, writing = os.pipe()
    with open(writing, "wb") as stdout:
        command = ["screen", "-", "--detector", detector, "--format", "jsonl"]
        process = programs.start(*command, folder=tmp_path, stdin="list", stdout=stdout, stderr="err")
    with open(reading, "rb", buffering=0) as output:
        assert output.read(1) == b"{"
    assert process.wait(60) == 2
    assert (tmp_path / "err").read_text() == ""


def test_odd_names_go_through_pipes(programs, detector, clean, tmp_path):
    odd = [os.fsencode(clean) + name for name in (b"/a\xff.png", b"/$\\foo$.png", b"/" + b"x" * 240 + b"\n.png")]
    for i, name in enumerate(odd):
        os.replace(clean / f"{i}.png", name)
    (tmp_path / "list").write_bytes(b"\0".join(odd))
    command = ["screen", "-", "--detector", detector, "--format", "csv", "--heatmaps", "maps", "--picture", "sheet.png"]
    done = programs.run(*command, folder=tmp_path, stdin="list")
    assert done.returncode == 0, done.stderr
    paths = [os.fsdecode(name).encode("utf-8", "backslashreplace").replace(b"\n", rb"\n") for name in odd]
    found = done.stdout.encode()  # and these are valid UTF-8
    assert [line.split(b",")[0] for line in found.splitlines()[1:]] == paths
    assert len(list((tmp_path / "maps").iterdir())) == 3


def run(programs: Programs, folder: Path, line: str) -> tuple[int, str]:
    """Returns the status and the standard error (target ERR) of a command line, after redirections."""
    redirections, *command = shlex.split(line)
    with ExitStack() as stack:
        streams = {}
        for number, target in (one.split(">") for one in redirections.split()):
            if target == "broken":
                reading, writing = os.pipe()
                os.close(reading)
                target = stack.enter_context(open(writing, "wb"))
            streams[NAMES[int(number)]] = None if target == "closed" else target
        status = programs.start(*command, folder=folder, **streams).wait()
    said = (folder / "ERR").read_text() if "ERR" in streams.values() else ""
    return status, said


@pytest.mark.slow
def test_closed_broken_and_full_streams(programs, detector, clean, tmp_path):
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
    for line, reason in lost.items():
        status, said = run(programs, tmp_path, line)
        assert status == 2, line
        assert len(said.splitlines()) == bool(reason), (line, said)
        assert reason in said
    for line in delivered:
        status, said = run(programs, tmp_path, line)
        assert status == 0, (line, said)
        assert "Traceback" not in said
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


@pytest.fixture
def with_odd_names(clean):
    for i, name in enumerate(("a😀.png".encode(), b"b\xff\x9b2J.png", b"=c\x1b[2J\n.png")):
        os.replace(clean / f"{i}.png", os.fsencode(clean) + b"/" + name)
    return clean


def assert_complete_and_harmless(shown: str) -> None:
    assert len(shown.splitlines()) == 4
    assert not set(shown) & {"\x1b", "\x9b"}
    assert any(line.startswith("'=c\\x1b[2J\\n.png,clean") for line in shown.splitlines())


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16:strict"])
def test_every_record_is_written_in_any_encoding(programs, detector, with_odd_names, tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    command = ["screen", "*.png", "--detector", detector, "--format", "csv"]
    process = programs.start(*command, folder=with_odd_names, stdout=tmp_path / "out", stderr=tmp_path / "err")
    assert process.wait() == 0, (tmp_path / "err").read_bytes()
    assert_complete_and_harmless((tmp_path / "out").read_bytes().decode(encoding.partition(":")[0]))


def test_every_record_is_written_in_the_locale_of_posix(detector, with_odd_names):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    program = Path(sys.executable).parent / "pixeldefend"
    command = [program, "screen", "*.png", "--detector", detector, "--format", "csv"]
    done = subprocess.run(command, cwd=with_odd_names, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert_complete_and_harmless(done.stdout.decode("ascii"))
