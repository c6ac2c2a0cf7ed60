"""Work in threads is divided among them, leaves torch as it was, and ends when one of them fails."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pixeldefend.threads import in_threads


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
    monkeypatch.undo()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


def test_an_error_in_a_thread_is_raised_and_torch_keeps_its_threads(three_threads):
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda part: 1 // part, [1, 0, 1]))
    assert torch.get_num_threads() == 3
