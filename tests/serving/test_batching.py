import asyncio
import threading
import weakref

import pytest
from serving.common import PATIENCE, Gate

from pixeldefend.errors import ParameterError
from pixeldefend.serving.batching import Batcher, Full


def run(coroutine):
    """Runs a test; what never ends fails."""

    async def patiently():
        await asyncio.wait_for(coroutine, PATIENCE)

    asyncio.run(patiently())


async def handed_in(batcher, *items):
    """Tasks that have handed in one item each, and wait."""
    tasks = [asyncio.create_task(batcher([item])) for item in items]
    await asyncio.sleep(0)  # each runs up to its wait
    return tasks


async def entered(gate, times=1):
    await asyncio.to_thread(gate.wait_until_entered, times)


def test_what_is_asked_at_once_is_done_together():
    batches = []

    async def ask():
        async with Batcher(lambda items: batches.append(sorted(items)), max_batch=4, max_wait=0.1) as batcher:
            await asyncio.gather(*await handed_in(batcher, *range(6)))

    run(ask())
    assert batches == [[0, 1, 2, 3], [4, 5]]


def test_one_alone_waits_for_others_and_then_goes_on():
    seen = []

    async def ask():
        batcher = Batcher(lambda items: None, max_wait=0.05, on_batch=lambda *numbers: seen.append(numbers))
        async with batcher:
            await batcher(["x"])

    run(ask())
    ((size, (wait,), _),) = seen
    assert size == 1
    assert wait > 0.04


def test_while_it_works_the_next_batch_gathers():
    sizes = []
    gate = Gate(lambda items: sizes.append(len(items)))

    async def ask():
        async with Batcher(gate, max_wait=0) as batcher:
            first = await handed_in(batcher, 0)
            await entered(gate)
            rest = await handed_in(batcher, *range(9))
            gate.opened.set()
            await asyncio.gather(*first, *rest)

    run(ask())
    assert sizes == [1, 9]


def test_more_than_fit_are_refused_at_once():
    gate = Gate(lambda items: None)

    async def ask():
        async with Batcher(gate, max_batch=1, max_wait=0, capacity=2) as batcher:
            waiting = await handed_in(batcher, 0)
            await entered(gate)  # it is being worked on, and does not count
            waiting += await handed_in(batcher, 1, 2)
            with pytest.raises(Full):
                await batcher([3])
            gate.opened.set()
            await asyncio.gather(*waiting)
            assert batcher.depth == 0
            with pytest.raises(Full):
                await batcher([1, 2, 3])  # all of a request or nothing

    run(ask())


def test_places_are_kept_for_what_is_yet_to_be_made():
    async def ask():
        async with Batcher(lambda items: None, max_batch=1, max_wait=0, capacity=4) as batcher:
            with batcher.reserve(3):
                for _ in range(2):
                    with pytest.raises(Full), batcher.reserve(2):
                        pass
                with pytest.raises(Full):
                    await batcher([1, 2])
                await batcher([1])
            await batcher([1, 2, 3, 4])

    run(ask())


def test_reserved_places_are_kept_until_their_items_are_in_the_queue():
    async def ask():
        gate = Gate(lambda items: None)
        async with Batcher(gate, max_batch=1, max_wait=0, capacity=2) as batcher:
            busy = asyncio.create_task(batcher([0]))
            while not gate.entered.acquire(blocking=False):
                await asyncio.sleep(0.001)
            with batcher.reserve(2) as give_back:
                mine = asyncio.create_task(batcher([1, 2], give_back))  # which does not begin at once
                with pytest.raises(Full):
                    await batcher([3])
                await asyncio.sleep(0)
                assert batcher.depth == 2
                gate.opened.set()
                await mine
            await busy
            await batcher([4, 5])  # the places were given back once

    run(ask())


def test_a_failure_reaches_those_it_concerns_and_no_others():
    def work(items):
        if "bad" in items:
            raise KeyError("bad")

    async def ask():
        async with Batcher(work, max_batch=1, max_wait=0) as batcher:
            results = await asyncio.gather(*(batcher([x]) for x in ("a", "bad", "b")), return_exceptions=True)
            assert results[0] is results[2] is None
            assert isinstance(results[1], KeyError)

    run(ask())


def test_who_has_gone_is_left_out():
    done = []
    gate = Gate(done.extend)

    async def ask():
        async with Batcher(gate, max_batch=1, max_wait=0) as batcher:
            (first,) = await handed_in(batcher, 1)
            await entered(gate)
            (gone,) = await handed_in(batcher, 2)
            gone.cancel()
            await asyncio.wait([gone])
            gate.opened.set()
            await first

    run(ask())
    assert done == [1]


def test_a_batch_takes_nothing_more_once_its_items_are_large_together():
    batches = []

    async def ask():
        options = dict(max_batch=4, max_wait=0.1, size_of=lambda size: size, max_size=10)
        async with Batcher(batches.append, **options) as batcher:
            await batcher([50, 4, 4, 4, 1, 1, 1, 1, 1])

    run(ask())
    assert batches == [[50], [4, 4, 4], [1, 1, 1, 1], [1]]


def test_what_nobody_waits_for_any_more_is_forgotten():
    class Large:
        pass

    gate = Gate(lambda items: None)

    async def ask():
        async with Batcher(gate, max_batch=1, max_wait=0) as batcher:
            (first,) = await handed_in(batcher, Large())
            await entered(gate)
            large = Large()
            (gone,) = await handed_in(batcher, large)
            held = weakref.ref(large)
            del large
            gone.cancel()
            await asyncio.wait([gone])
            del gone
            assert held() is None
            gate.opened.set()
            await first

    run(ask())


def test_to_leave_finishes_what_was_accepted():
    done = []

    async def ask():
        async with Batcher(done.extend, max_batch=8, max_wait=2 * PATIENCE) as batcher:
            waiting = await handed_in(batcher, *range(3))
        await asyncio.gather(*waiting)

    run(ask())
    assert sorted(done) == [0, 1, 2]


def test_a_function_runs_between_two_batches_in_the_thread_that_works():
    threads = []

    async def ask():
        async with Batcher(lambda items: threads.append(threading.current_thread()), max_wait=0) as batcher:
            await batcher([1])
            threads.append(await batcher.run(threading.current_thread))

    run(ask())
    assert threads[0] is threads[1]


@pytest.mark.parametrize("options", [dict(max_batch=0), dict(capacity=0), dict(max_wait=-1)])
def test_wrong_arguments(options):
    with pytest.raises(ParameterError):
        Batcher(lambda items: None, **options)
