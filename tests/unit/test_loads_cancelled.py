"""Leaders and waiters that are cancelled, interrupted or abandoned do not hold up the others."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from loaders import ALLOW, REQUEST, ControlledLoader, begun, bringing, never


async def test_a_cancelled_leader_hands_over_to_a_waiter_with_its_own_loader(cache):
    first, second = ControlledLoader(), ControlledLoader()
    [leader] = await begun(cache, first)
    waiter = asyncio.create_task(cache.get_or_load(*REQUEST, second))
    last = asyncio.create_task(cache.get_or_load(*REQUEST, never))
    await asyncio.sleep(0)
    leader.cancel()
    await second.begun.wait()
    second.bring(ALLOW)
    assert await asyncio.gather(waiter, last) == [ALLOW, ALLOW]
    assert leader.cancelled()
    assert (first.runs, second.runs, cache.metrics.loads) == (1, 1, 2)


async def test_a_cancelled_waiter_does_not_affect_the_others(cache):
    loader = ControlledLoader()
    leader, impatient, patient = await begun(cache, loader, 3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await impatient
    loader.bring(ALLOW)
    assert await leader == await patient == ALLOW
    assert loader.runs == 1


async def test_a_leader_that_runs_out_of_time_hands_over(cache):
    async def impatient():
        async with asyncio.timeout(0.01):
            await cache.get_or_load(*REQUEST, ControlledLoader())

    asking = asyncio.create_task(impatient())
    await asyncio.sleep(0)
    patient = asyncio.create_task(cache.get_or_load(*REQUEST, bringing(ALLOW)))
    with pytest.raises(TimeoutError):
        await asking
    assert await patient == ALLOW


async def test_all_requests_of_a_load_may_be_cancelled_at_once(cache):
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 2_000)
    for task in tasks:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW


async def test_an_abandoned_leader_hands_over(cache):
    leading = cache.get_or_load(*REQUEST, ControlledLoader())
    contextvars.copy_context().run(leading.send, None)
    waiter = asyncio.create_task(cache.get_or_load(*REQUEST, bringing(ALLOW)))
    await asyncio.sleep(0)
    assert not waiter.done()
    del leading
    assert await waiter == ALLOW


def test_a_leader_whose_loop_ends_hands_over_to_another_loop(cache):
    waits = threading.Event()

    async def lead():
        await begun(cache, ControlledLoader())
        await asyncio.to_thread(waits.wait)
        # The leader is still running when its loop ends: asyncio.run cancels it.

    async def wait():
        while cache.metrics.loads == 0:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(cache.get_or_load(*REQUEST, bringing(ALLOW)))
        await asyncio.sleep(0)
        waits.set()
        return await waiting

    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(asyncio.run, lead())
        assert pool.submit(asyncio.run, wait()).result() == ALLOW
        leading.result()


def test_a_waiter_on_a_closed_loop_does_not_keep_the_lead(cache):
    forgotten = asyncio.new_event_loop()

    async def lead():
        loader = ControlledLoader()
        [leader] = await begun(cache, loader)
        return leader

    async def ask():
        return await cache.get_or_load(*REQUEST, bringing(ALLOW))

    async def scene():
        leader = await lead()
        task = await asyncio.to_thread(wait_and_close)
        live = asyncio.create_task(ask())
        await asyncio.sleep(0)
        leader.cancel()
        del task
        return await live

    def wait_and_close():
        task = forgotten.create_task(ask())
        task._log_destroy_pending = False  # it is abandoned on purpose
        forgotten.run_until_complete(asyncio.sleep(0))
        forgotten.close()
        return task

    assert asyncio.run(scene()) == ALLOW
