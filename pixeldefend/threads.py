"""Work in several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(function: Callable[[Part], Result], parts: Sequence[Part], most: int | None = None) -> Iterator[Result]:
    """Calls a function with each of several parts, without gradients, in as many threads as torch uses.

    torch divides each operation among its threads, which wait for one another after each. Threads that work on
    different parts do not wait.

    Args:
        function: Takes one part. It may use torch on the CPU.
        parts: The parts.
        most: The largest number of threads; None for as many as torch uses.

    Yields:
        The results, in the order of the parts. Few parts are worked on ahead: results that are kept between the large
        tensors of later parts would leave memory in pieces.
    """
    import torch

    from .ambient import torch_defaults

    def called(part: Part) -> Result:
        with torch_defaults(), torch.no_grad():  # which belong to a thread
            return function(part)

    threads = torch.get_num_threads()
    workers = min(threads if most is None else most, threads, len(parts))
    if workers < 2:
        yield from map(called, parts)
        return
    with ThreadPoolExecutor(workers, initializer=_use_one_thread) as pool:
        started = Barrier(workers + 1)
        try:
            for _ in range(workers):
                pool.submit(started.wait)
            started.wait()
        except BaseException:
            started.abort()  # if a thread cannot be started, the others wait no longer
            raise
        finally:
            torch.set_num_threads(threads)  # of threads that are started from now on, by anybody
        ahead: deque[Future[Result]] = deque()
        try:
            for part in parts:
                ahead.append(pool.submit(called, part))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun is not waited for
            raise


def _use_one_thread() -> None:
    """Has torch use no threads but the one that calls this."""
    import torch

    torch.get_num_threads()  # which sets the number of a new thread, and would overwrite a number that was set before
    torch.set_num_threads(1)
