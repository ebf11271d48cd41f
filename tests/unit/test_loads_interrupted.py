"""Ctrl-C while waiters are woken, in an event loop that is run again afterwards."""

import asyncio

import pytest

from loaders import ALLOW, REQUEST, never

WAITERS = 50


class InterruptedLoop(asyncio.SelectorEventLoop):
    """A loop in whose own code an interrupt is raised, which can happen anywhere in Python."""

    calls_left = None
    interrupts = 0

    def count(self):
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left == 0:
                self.interrupts += 1
                raise KeyboardInterrupt

    def call_soon(self, *args, **options):
        self.count()
        return super().call_soon(*args, **options)

    def call_soon_threadsafe(self, *args, **options):
        self.count()
        return super().call_soon_threadsafe(*args, **options)


@pytest.fixture
def loop():
    loop = InterruptedLoop()
    yield loop
    loop.close()


def go_on(loop, coroutine):
    """Runs a loop again after each interrupt, like a notebook; returns the number of interrupts."""
    interrupts = 0
    while True:
        try:
            loop.run_until_complete(coroutine())
        except KeyboardInterrupt:
            interrupts += 1
        else:
            return interrupts


async def begin(cache, load):
    tasks = [asyncio.create_task(cache.get_or_load(*REQUEST, load))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(cache.get_or_load(*REQUEST, never)) for _ in range(WAITERS)]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize("call", [1, 2, 3, 4, 10, 30])
def test_every_waiter_is_woken_wherever_an_interrupt_is_raised(cache, loop, call):
    may_end = asyncio.Event()

    async def load():
        await may_end.wait()
        loop.calls_left = call
        return ALLOW

    async def until_all_are_done():
        async with asyncio.timeout(4):
            while not all(task.done() for task in tasks[1:]):
                await asyncio.sleep(0.01)

    tasks = loop.run_until_complete(begin(cache, load))
    may_end.set()
    assert go_on(loop, until_all_are_done) == loop.interrupts, "and the interrupt came through"
    assert [task.result() for task in tasks[1:]] == [ALLOW] * WAITERS
    assert tasks[0].done()
    tasks[0].exception()  # retrieved, so that asyncio does not log it


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_one_waiter_does_not_prevent_the_others_from_being_woken(
    cache, loop, interrupt
):
    may_end = asyncio.Event()

    async def load():
        await may_end.wait()
        return ALLOW

    async def ask():
        await cache.get_or_load(*REQUEST, never)
        raise interrupt

    async def scene():
        leader, *waiters = await begin(cache, load)
        interrupted.extend(asyncio.create_task(ask()) for _ in range(3))
        last = asyncio.create_task(cache.get_or_load(*REQUEST, never))
        await asyncio.sleep(0)
        return [leader, *waiters, last]

    interrupted = []
    tasks = loop.run_until_complete(scene())
    may_end.set()
    with pytest.raises(interrupt):
        loop.run_until_complete(asyncio.sleep(1))
    assert loop.run_until_complete(asyncio.gather(*tasks)) == [ALLOW] * len(tasks)
    assert all(isinstance(task.exception(), interrupt) for task in interrupted)


async def test_a_cancelled_wait_raises_with_the_message_of_the_cancellation(cache):
    loading = asyncio.create_task(cache.get_or_load(*REQUEST, asyncio.Event().wait))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(cache.get_or_load(*REQUEST, never))
    await asyncio.sleep(0)
    assert waiting.cancel("not wanted any more")
    with pytest.raises(asyncio.CancelledError, match="not wanted any more"):
        await waiting
    loading.cancel()
