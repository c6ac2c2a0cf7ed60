"""What a search skips is counted, named on request, and tells in the exit status if it may be an image."""

import json
import os
import signal

import pytest
from helpers import needs_closed_files, noise
from PIL import Image


@pytest.fixture(autouse=True)
def signals():
    """`watch` handles signals; the handlers of the tests come back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def mixed(clean):
    """A folder with images, and with what is skipped but cannot be an image."""
    (clean / "a\n\x1b[31m.txt").write_text("no image")
    (clean / os.fsdecode(b"\xff")).write_bytes(b"")
    (clean / "loop").symlink_to(".")
    os.mkfifo(clean / "pipe.png")
    return clean


@pytest.fixture
def watch(pixeldefend, detector, tmp_path):
    def run(folder, *options):
        log = ("--log", tmp_path / "log.sqlite")
        return pixeldefend("watch", folder, "--once", "--settle", "0", "--detector", detector, *log, *options)

    return run


LISTED = [
    "skipped (not a file): {}/pipe.png",
    "skipped (not an image): {}/\\udcff",
    "skipped (not an image): {}/a\\n\\x1b[31m.txt",
    "skipped (repeated folder): {}/loop",
]


def test_screen_counts_what_it_skips_and_names_it_on_request(pixeldefend, detector, mixed):
    for options, expected in ([], []), (["--list-skipped"], LISTED):
        result = pixeldefend("screen", mixed, "--detector", detector, "--format", "jsonl", *options)
        assert result.exit_code == 0, result.stderr
        assert [json.loads(line)["verdict"] for line in result.stdout.splitlines()] == ["clean"] * 3
        *listed, summary = result.stderr.splitlines()
        assert sorted(listed) == [line.format(mixed) for line in expected]
        for number in ("3 clean", "1 not a file", "2 not an image", "1 repeated folder"):
            assert number in summary
        assert "looked at" not in summary


def test_watch_counts_what_it_skips_and_names_it_on_request(watch, mixed):
    for options, expected in ([], []), (["--list-skipped"], LISTED):
        result = watch(mixed, *options)
        assert result.exit_code == 0, result.stderr
        *listed, summary = result.stderr.splitlines()
        assert sorted(listed) == [line.format(mixed) for line in expected]
        assert "2 not an image" in summary


@pytest.mark.parametrize("what", ["broken link", pytest.param("unreadable", marks=needs_closed_files)])
def test_what_could_not_be_looked_at_is_in_the_summary_and_the_status(pixeldefend, watch, detector, clean, what):
    if what == "broken link":
        (clean / "latest").symlink_to("nowhere")
    else:
        (clean / "notes").write_bytes(b"perhaps an image")
        (clean / "notes").chmod(0)
    Image.fromarray(noise(1)[0]).save(clean / "noise.png")
    for result in (pixeldefend("screen", clean, "--detector", detector), watch(clean)):
        assert result.exit_code == 2
        assert f"1 {what} (1 could not be looked at)" in result.stderr


def test_watch_once_tells_what_it_could_not_screen(watch, clean, tmp_path):
    assert watch(clean).exit_code == 0
    path = clean / "noise.png"
    Image.fromarray(noise(1)[0]).save(path)
    assert watch(clean, "--quarantine", tmp_path / "aside").exit_code == 0
    assert not path.exists()
    (clean / "empty.png").write_bytes(b"")
    assert watch(clean).exit_code == 2
    assert watch(clean).exit_code == 0, "an earlier run has recorded it"


@needs_closed_files
def test_watch_tells_what_it_could_not_move(watch, clean, tmp_path):
    Image.fromarray(noise(1)[0]).save(clean / "noise.png")
    clean.chmod(0o500)  # from which nothing can be moved
    result = watch(clean, "--quarantine", tmp_path / "aside")
    clean.chmod(0o700)
    assert (result.exit_code, json.loads(result.stdout.splitlines()[-1])["error_kind"]) == (2, "quarantine")


@pytest.mark.parametrize("listed", [b"%s\n", b"%s\r\n", b"\n%s\n\n", b"%s"])
def test_names_on_standard_input(pixeldefend, detector, clean, listed):
    odd = os.fsencode(clean) + b"/ sp ace\xff.png"
    os.replace(clean / "0.png", odd)
    result = pixeldefend("screen", "-", "--detector", detector, "--format", "jsonl", stdin=listed % odd)
    assert result.exit_code == 0, result.stderr
    (record,) = map(json.loads, result.stdout.splitlines())
    assert os.fsencode(record["path"]) == odd


@pytest.mark.slow
def test_ray_counts_and_names_the_same(pixeldefend, detector, mixed, tmp_path, ray_cluster):
    (mixed / "latest").symlink_to("nowhere")
    nothing = mixed / "*.jpg"
    common = ("--detector", detector, "--list-skipped")
    options = ("--engine", "ray", "--workers", "1", "--output", tmp_path / "out")
    # the first run has no images, so that it starts no worker; the second adds to its output
    for sources, listed, told in (
        ([nothing], [nothing], ""),
        ([mixed, nothing], ["-", nothing], f"{tmp_path / 'out'} held 1 of them already\n"),
    ):
        local = pixeldefend("screen", *sources, *common, "--format", "jsonl")
        on_ray = pixeldefend("screen", *listed, *common, *options, stdin=f"{mixed}\n")
        assert on_ray.exit_code == local.exit_code == 2
        assert on_ray.stderr.endswith(local.stderr + told), on_ray.stderr
