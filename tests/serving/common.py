"""What the tests of the service share. `tests` is on the path, so that this is `serving.common`."""

import io
import json
import os
import socket
import threading
from contextlib import contextmanager

import numpy as np
import uvicorn
from helpers import clean_images
from PIL import Image

from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.serving import Service, create_app

CLEAN = clean_images(1, seed=7)[0]
ATTACKED = np.random.RandomState(0).randint(0, 256, (8, 8)).astype(np.uint8)
NOISE = np.random.RandomState(1).randint(0, 256, (40, 8, 8)).astype(np.uint8)
PATIENCE = 60  # seconds until a test gives up waiting for an event


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def form(*images: np.ndarray) -> list:
    """The images as the files of a form."""
    return [("image", (f"{i}.png", png(image))) for i, image in enumerate(images)]


def app_of(detector, folder, *, keys=None, max_bytes=100_000, deadline=PATIENCE, **options):
    log = AuditLog(folder / "log.sqlite")
    return create_app(Service(log, detector, **options), keys=keys, max_bytes=max_bytes, deadline=deadline)


def events(text: str, event: str) -> list[dict]:
    """The lines of a log, as JSON, that are about an event."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


class Gate:
    """Holds a function up until the gate is opened, and says when it has been entered."""

    def __init__(self, function):
        self.function = function
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, *arguments, **options):
        self.entered.release()
        assert self.opened.wait(PATIENCE)
        return self.function(*arguments, **options)

    def wait_until_entered(self, times=1):
        for _ in range(times):
            assert self.entered.acquire(timeout=PATIENCE)


@contextmanager
def in_thread(app):
    """Serves an application from a thread of this process; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # it queues what comes before the server is ready
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield "http://{}:{}".format(*listening.getsockname())
        server.should_exit = True
        thread.join()


class Process:
    """`pixeldefend serve` with the detector tiny.safetensors in a folder; its errors are read as they come.

    It is started by a function, such as `Programs.start`.
    """

    def __init__(self, start, folder, *options):
        self.start, self.folder, self.options = start, folder, options
        self.lines, self.listening = [], threading.Event()

    def __enter__(self):
        arguments = ["--detector", "tiny.safetensors", "--port", "0", *self.options]
        reading, writing = os.pipe()
        with open(writing, "wb") as stderr:
            self.process = self.start("serve", *arguments, folder=self.folder, stderr=stderr)
        self.errors = open(reading)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.listening.wait()
        found = events(self.text, "listening")
        assert found, self.text
        self.url = found[0]["url"]
        return self

    @property
    def text(self):
        return "".join(self.lines)

    def _read(self):
        for line in self.errors:
            self.lines.append(line)
            if '"listening"' in line:
                self.listening.set()
        self.listening.set()  # it has ended

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        self.errors.close()
