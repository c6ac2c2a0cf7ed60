"""The log of the service: every line is JSON."""

import asyncio
import gc
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import pytest
from serving.common import ATTACKED, CLEAN, PATIENCE, Process, png

from pixeldefend.serving.log_lines import json_only, log_line


def warn():
    warnings.warn("an odd image", UserWarning, stacklevel=1)


def raise_in_a_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()


def raise_where_nobody_can_catch():
    class Failing:
        def __del__(self):
            raise ZeroDivisionError

    Failing()
    gc.collect()


def forget_a_task():
    async def fail():
        raise ZeroDivisionError

    async def forget():
        asyncio.get_running_loop().create_task(fail())
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(forget())
    gc.collect()


@pytest.mark.parametrize(
    ("write", "word"),
    [
        (warn, "an odd image"),
        (lambda: logging.getLogger("some.package").warning("%s\nlines", "two"), "lines"),
        (lambda: logging.getLogger("some.package").warning("%d", "no number"), "%d"),
        (lambda: logging.getLogger("some.package").error("failed", exc_info=KeyError("key")), "KeyError"),
        (lambda: print("printed\nby a package", file=sys.stderr), "printed"),
        (lambda: print("without an end", end="", file=sys.stderr), "without an end"),
        (lambda: print("\udcff", file=sys.stderr), "\udcff"),
        (raise_in_a_thread, "ZeroDivisionError"),
        (raise_where_nobody_can_catch, "ZeroDivisionError"),
        (forget_a_task, "ZeroDivisionError"),
        (lambda: log_line("event", detail="one\ntwo"), "two"),
    ],
)
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("without_pytest")
def test_every_line_is_json(capsys, write, word):
    before = warnings.showwarning, logging.getLogger().handlers, sys.stderr
    with json_only():
        write()
    assert (warnings.showwarning, logging.getLogger().handlers, sys.stderr) == before
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert any(word in value for line in lines for value in line.values() if isinstance(value, str))
    assert all(line["time"] > 0 and line["event"] for line in lines)


@pytest.fixture
def without_pytest(monkeypatch):
    """Python's own handling of what nobody catches; pytest has put its own in that place."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)


class Broken:
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Broken()], ids=["closed", "broken"])
def test_a_log_that_nobody_can_read_stops_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    log_line("event")
    with json_only():
        print("text", file=sys.stderr)
        warn()


def test_a_process_writes_nothing_but_json(tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "tiny.safetensors")
    odd = png(ATTACKED)
    place = odd.index(b"IDAT") - 4  # an animation of no frames, of which Pillow warns
    chunk = b"acTL" + bytes(8)
    odd = odd[:place] + b"\0\0\0\x08" + chunk + zlib.crc32(chunk).to_bytes(4, "big") + odd[place:]

    def start(*arguments, folder, stderr):  # and imports torch, which may warn
        program = Path(sys.executable).parent / "pixeldefend"
        return subprocess.Popen([program, *arguments], cwd=folder, stderr=stderr)

    with Process(start, tmp_path) as served:
        host, port = served.url.removeprefix("http://").rsplit(":", 1)
        head = b"POST /v1/screen HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        length = b"content-length: %d\r\n"
        for request, status in [
            (head + length % len(png(CLEAN)) + b"\r\n" + png(CLEAN), 200),
            (head + length % len(odd) + b"\r\n" + odd, None),
            (b"no HTTP\r\n\r\n", 400),
            (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
            (head + b"content-length: x\r\n\r\n", 400),
            (head + b"upgrade: websocket\r\nconnection: upgrade\r\n\r\n", 422),
            (head + b"content-type: multipart/form-data; boundary=b\r\ncontent-length: 1\r\n\r\nx", 400),
        ]:
            with socket.create_connection((host, int(port)), PATIENCE) as connection:
                connection.sendall(request)
                with connection.makefile("rb") as stream:
                    answer = stream.read()
            found, _, body = answer.partition(b"\r\n\r\n")
            assert json.loads(body)
            assert status is None or found.startswith(b"HTTP/1.1 %d" % status)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
        served.reader.join()
        lines = [json.loads(line) for line in served.lines]
    assert [lines[0]["event"], lines[-1]["event"]] == ["listening", "stopped"]
    assert any("Invalid HTTP" in line.get("message", "") for line in lines)
