"""The command line and the service calm waiting threads; work in threads leaves torch as it was."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pixeldefend.threads import in_threads


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE 1000"), ("ACTIVE", "ACTIVE None")])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(given, expected):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    program = f"""
import os, sys
from pixeldefend.threads import calm_waiting_threads
calm_waiting_threads()
print(*map(os.environ.get, {names}))
assert "torch" not in sys.modules  # which reads them when it is imported
"""
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == expected, found.stderr


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_parts_are_worked_on_in_threads_of_one_thread_each(three_threads):
    everyone = threading.Barrier(3, timeout=60)

    def work(part):
        everyone.wait()  # passes only if three parts are worked on at once
        return part, torch.get_num_threads(), torch.is_grad_enabled(), torch.ones(()).dtype

    torch.set_default_dtype(torch.float64)
    try:
        found = list(in_threads(work, range(6)))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == [(part, 1, False, torch.float32) for part in range(6)]
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3
    assert list(in_threads(torch.neg, [])) == []


def test_a_thread_that_cannot_be_started_is_an_error_and_nobody_waits(three_threads, monkeypatch):
    start, started = threading.Thread.start, []

    def refuse_the_second(thread):
        started.append(thread)
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_second)
    with pytest.raises(RuntimeError, match="can't start"):
        list(in_threads(torch.neg, [torch.ones(1)] * 3))
    started[0].join(60)
    assert not started[0].is_alive()


def test_an_error_in_a_thread_is_raised_and_torch_keeps_its_threads(three_threads):
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda part: 1 // part, [1, 0, 1]))
    assert torch.get_num_threads() == 3
