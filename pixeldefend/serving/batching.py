"""Micro-batching: images that arrive at the same time are scored together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, TypeVar

from ..errors import ParameterError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Full(Exception):
    """The queue is full."""


@dataclass
class _Waiting:
    item: Any  # forgotten once nobody waits for it: it may be large
    since: float
    done: asyncio.Future[None]


@dataclass
class Batcher(Generic[Item]):
    """Collects items into batches and works on a batch at once.

    A batch is complete when it has `max_batch` items, when its items have the size `max_size` together, or when its
    first item has waited `max_wait` seconds. `work` runs in a thread of its own; items that arrive meanwhile make the
    next batch. Use the batcher with `async with`: at the end of the block it finishes all items that it accepted.

    Args:
        work: A function that is called with the items of each batch.
        max_batch: The largest number of items in a batch.
        max_wait: How many seconds the first item of a batch waits for others.
        capacity: The largest number of waiting items; beyond it `Full` is raised.
        size_of: A function that returns how much work an item is.
        max_size: The size at which a batch takes no further item.
        on_batch: A function that is called after each batch with the number of its items, the seconds that each of them
            waited, and the seconds that the work took.

    Raises:
        ParameterError: If max_batch or capacity is below 1, or max_wait is negative.
    """

    work: Callable[[Sequence[Item]], None]
    max_batch: int = 64
    max_wait: float = 0.005
    capacity: int = 1024
    size_of: Callable[[Item], int] = lambda item: 0
    max_size: int = 1
    on_batch: Callable[[int, list[float], float], None] = lambda size, waits, took: None
    _queue: asyncio.Queue[_Waiting | None] = field(default_factory=asyncio.Queue, init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)
    _reserved: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.capacity < 1 or self.max_wait < 0:
            raise ParameterError(
                "max_batch and capacity must be at least 1 and max_wait not negative, got "
                f"{self.max_batch}, {self.capacity} and {self.max_wait}"
            )

    @property
    def depth(self) -> int:
        """The number of waiting items."""
        return self._queue.qsize()

    async def __aenter__(self) -> Batcher[Item]:
        self._thread = ThreadPoolExecutor(1, "scoring")
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._queue.put(None)
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def __call__(self, items: Sequence[Item], give_back: Callable[[], None] = lambda: None) -> None:
        """Waits until the work on all items is done.

        Args:
            items: The items.
            give_back: What `reserve` yielded, if places were reserved for the items.

        Raises:
            Full: If the items do not all fit into the queue. It is raised before any work.
            Exception: The exception that `work` raised, if it did.
        """
        give_back()
        self._check_room(len(items))
        loop = asyncio.get_running_loop()
        entries = [_Waiting(item, perf_counter(), loop.create_future()) for item in items]
        for entry in entries:
            self._queue.put_nowait(entry)
        try:
            await asyncio.gather(*(entry.done for entry in entries))
        finally:
            for entry in entries:  # nobody waits any more: a batch that has not begun leaves them out
                entry.done.cancel()
                entry.item = None

    @contextmanager
    def reserve(self, items: int) -> Iterator[Callable[[], None]]:
        """Reserves places in the queue for items that are still being made.

        Args:
            items: The number of places.

        Yields:
            A function that gives the places back, for the call that hands the items in. Otherwise they are given back
            at the end of the block.

        Raises:
            Full: If the queue does not have so many free places.
        """
        self._check_room(items)
        self._reserved += items
        held = [items]

        def give_back() -> None:
            self._reserved -= held.pop() if held else 0

        try:
            yield give_back
        finally:
            give_back()

    def _check_room(self, items: int) -> None:
        if self.depth + self._reserved + items > self.capacity:
            raise Full

    async def run(self, function: Callable[[], Result]) -> Result:
        """Runs a function in the thread of `work`, between two batches, and returns its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        last = False
        while not last:
            batch: list[_Waiting] = []
            until: float | None = None
            size = 0
            while len(batch) < self.max_batch and size < self.max_size:
                if until is None or not self._queue.empty():
                    entry = await self._queue.get()
                else:
                    try:
                        entry = await asyncio.wait_for(self._queue.get(), max(0.0, until - perf_counter()))
                    except TimeoutError:
                        break
                if entry is None:
                    last = True
                    break
                if not entry.done.done():
                    batch.append(entry)
                    size += self.size_of(entry.item)
                    until = until or entry.since + self.max_wait
            batch = [entry for entry in batch if not entry.done.done()]
            if not batch:
                continue
            started = perf_counter()
            waits = [started - entry.since for entry in batch]
            try:
                await loop.run_in_executor(self._thread, self.work, [entry.item for entry in batch])
            except Exception as error:
                for entry in batch:
                    if not entry.done.done():
                        entry.done.set_exception(error)
            else:
                for entry in batch:
                    if not entry.done.done():
                        entry.done.set_result(None)
            self.on_batch(len(batch), waits, perf_counter() - started)
