import asyncio
import threading
import time

import pytest

from pixeldefend.serving.batching import Batcher, Full


def test_what_is_asked_at_once_is_done_together():
    batches = []

    async def ask():
        async with Batcher(lambda items: batches.append(sorted(items)), most=4, wait=0.2) as batcher:
            await asyncio.gather(*(batcher([i]) for i in range(6)))

    asyncio.run(ask())
    assert batches == [[0, 1, 2, 3], [4, 5]]


def test_one_alone_waits_no_longer_than_it_must():
    async def ask():
        async with Batcher(lambda items: None, most=64, wait=0.05) as batcher:
            started = time.perf_counter()
            await batcher(["x"])
            return time.perf_counter() - started

    assert 0.04 < asyncio.run(ask()) < 2


def test_while_it_works_the_next_batch_gathers():
    sizes = []

    def work(items):
        sizes.append(len(items))
        time.sleep(0.1)

    async def ask():
        async with Batcher(work, most=64, wait=0) as batcher:
            first = asyncio.create_task(batcher([0]))
            await asyncio.sleep(0.03)
            await asyncio.gather(first, *(batcher([i]) for i in range(9)))

    asyncio.run(ask())
    assert sizes == [1, 9]


def test_more_than_fit_are_refused_at_once():
    gate = threading.Event()

    async def ask():
        async with Batcher(lambda items: gate.wait(10), most=1, wait=0, capacity=2) as batcher:
            waiting = [asyncio.create_task(batcher([0]))]
            await asyncio.sleep(0.05)  # it is being worked on, and does not count
            waiting += [asyncio.create_task(batcher([i])) for i in range(2)]
            await asyncio.sleep(0.05)
            with pytest.raises(Full):
                await batcher([3])
            gate.set()
            await asyncio.gather(*waiting)
            assert batcher.depth == 0
            with pytest.raises(Full):
                await batcher([1, 2, 3])  # all of a request or nothing

    asyncio.run(ask())


def test_places_are_kept_for_what_is_yet_to_be_made():
    async def ask():
        async with Batcher(lambda items: None, most=1, wait=0, capacity=4) as batcher:
            with batcher.reserve(3):
                for _ in range(2):
                    with pytest.raises(Full), batcher.reserve(2):
                        pass
                with pytest.raises(Full):
                    await batcher([1, 2])
                await batcher([1])
            await batcher([1, 2, 3, 4])

    asyncio.run(ask())


def test_a_failure_reaches_those_it_concerns_and_no_others():
    def work(items):
        if "bad" in items:
            raise ValueError("bad")

    async def ask():
        async with Batcher(work, most=1, wait=0) as batcher:
            results = await asyncio.gather(*(batcher([x]) for x in ("a", "bad", "b")), return_exceptions=True)
            assert results[0] is results[2] is None
            assert isinstance(results[1], ValueError)

    asyncio.run(ask())


def test_who_has_gone_is_left_out():
    done = []
    gate = threading.Event()

    def work(items):
        gate.wait(10)
        done.extend(items)

    async def ask():
        async with Batcher(work, most=1, wait=0) as batcher:
            first, gone = asyncio.create_task(batcher([1])), asyncio.create_task(batcher([2]))
            await asyncio.sleep(0.05)
            gone.cancel()
            await asyncio.sleep(0.01)
            gate.set()
            await first

    asyncio.run(ask())
    assert done == [1]


def test_to_leave_finishes_what_was_accepted():
    done = []

    async def ask():
        async with Batcher(done.extend, most=8, wait=5) as batcher:
            waiting = [asyncio.create_task(batcher([i])) for i in range(3)]
            await asyncio.sleep(0.05)
        await asyncio.gather(*waiting)

    asyncio.run(ask())
    assert sorted(done) == [0, 1, 2]


def test_wrong_arguments():
    for options in (dict(most=0), dict(capacity=0), dict(wait=-1)):
        with pytest.raises(ValueError, match="at least 1"):
            Batcher(lambda items: None, **options)
