"""`pixeldefend` in processes that are forked from one that has imported torch, which takes seconds.

They have streams, signals, an environment and an exit status of their own, as a process that was started has. Of what
Python itself reads when it starts, they only heed PYTHONIOENCODING.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO, Any

NAMES = ("stdin", "stdout", "stderr")


class Program:
    """A program that runs: much of `subprocess.Popen`."""

    def __init__(self, control: socket.socket, request: list[Any], streams: list[IO[Any]]) -> None:
        ours, theirs = socket.socketpair()
        self._answers = ours.makefile()
        with ours, theirs:
            files = [theirs.fileno(), *(stream.fileno() for stream in streams)]
            socket.send_fds(control, [json.dumps(request).encode() + b"\n"], files)
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        with self._answers:
            self.returncode = int(self._answers.readline())

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._waiting.join(timeout)
        if self.returncode is None:
            raise TimeoutError
        return self.returncode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Programs:
    """Starts programs.

    Args:
        control: The socket of the process that forks them.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def start(self, *arguments: Any, folder: Path, **streams: Any) -> Program:
        """Starts `pixeldefend ARGUMENTS` in a folder.

        The streams `stdin`, `stdout` and `stderr` are paths, files, or None for a closed one.
        """
        with ExitStack() as stack:
            files: dict[str, IO[Any] | None] = {}
            for name in NAMES:
                stream = streams.get(name, os.devnull)
                if isinstance(stream, str | Path):
                    stream = stack.enter_context(open(folder / stream, "rb" if name == "stdin" else "wb"))
                files[name] = stream
            is_open = [files[name] is not None for name in NAMES]
            request = [[str(one) for one in arguments], str(folder), dict(os.environ), is_open]
            return Program(self._control, request, [file for file in files.values() if file is not None])

    def run(self, *arguments: Any, **options: Any) -> "CompletedProcess[str]":
        """Runs a program to its end, and returns its status and what it has said."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            status = self.start(*arguments, **{"stdout": stdout, "stderr": stderr, **options}).wait()
            stdout.seek(0)
            stderr.seek(0)
            return CompletedProcess(arguments, status, stdout.read(), stderr.read())


@contextmanager
def forking() -> Iterator[Programs]:
    """Runs the process that forks programs."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
        yield Programs(ours)
    process.terminate()
    process.wait()


# -- the process that forks --------------------------------------------------------------------------------------------


def serve(control: socket.socket) -> None:
    """Forks, for every request, the program and a process that waits for it."""
    import torch

    import pixeldefend.eval
    import pixeldefend.screening.audit_log
    import pixeldefend.screening.figures
    import pixeldefend.screening.pipeline
    import pixeldefend.screening.purify
    import pixeldefend.screening.watch
    import pixeldefend.serving  # noqa: F401

    torch.broadcast_shapes((1,), (1,))  # imports much
    while True:
        request, files, _, _ = socket.recv_fds(control, 1 << 16, 4)
        if not request:
            return
        while not request.endswith(b"\n"):
            request += control.recv(1 << 16)
        if not (waiting := os.fork()):
            # waited for by nobody, as its parent ends at once
            if not os.fork():
                control.close()
                run_and_wait(json.loads(request), *files)
            os._exit(0)
        os.waitpid(waiting, 0)
        for file in files:
            os.close(file)


def run_and_wait(request: list[Any], answers: int, *streams: int) -> None:
    pid = os.fork()
    if not pid:
        os.close(answers)
        try:
            run(*request, streams)
        finally:
            os._exit(2)
    for stream in streams:
        os.close(stream)
    os.write(answers, f"{pid}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(answers, f"{status}\n".encode())


def run(
    arguments: list[str], folder: str, environment: dict[str, str], is_open: list[bool], streams: tuple[int, ...]
) -> None:
    """Makes this process one that was started with these streams, runs the program and ends."""
    from pixeldefend.cli.main import main

    # a shell that runs the tests in the background lets their children ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["pixeldefend", *arguments]
    encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
    given = iter(streams)
    for number, (name, mode) in enumerate(zip(NAMES, "rww", strict=True)):
        if is_open[number]:
            os.dup2(next(given), number)
            buffering = 1 if name == "stderr" else -1
            setattr(sys, name, os.fdopen(number, mode, buffering, encoding or None, errors or None, closefd=False))
        else:  # as Python does when it starts
            os.close(number)
            setattr(sys, name, None)
    for stream in streams:
        os.close(stream)
    status: Any = 2
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120  # as Python has it
    os._exit(status)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        serve(given)
