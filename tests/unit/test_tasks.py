"""Tasks that are ended: within a bound, also where a cancellation is lost on the way."""

import asyncio

import pytest

from sark_cache.tasks import cancellation_kept, end


async def losing(cancellations):
    """Goes on for so many cancellations, as a loop around a client that loses them does."""
    while cancellations:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancellations -= 1


async def begun(coroutine):
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


async def test_nothing_to_end_takes_no_time(caplog):
    await end([], "probes")
    await end([await begun(losing(0))], "probes")
    assert caplog.records == []


@pytest.mark.parametrize("lost", [0, 1, 3])
async def test_a_task_that_loses_cancellations_is_asked_again(lost, caplog):
    task = await begun(losing(lost))
    await end([task], "probes")
    assert task.done()
    assert caplog.records == []


async def test_a_task_that_never_ends_is_waited_for_within_the_bound(caplog):
    stubborn, willing = await begun(losing(10**6)), await begun(asyncio.sleep(3600))
    async with asyncio.timeout(10):
        await end([stubborn, willing], "probes", 0.05)
    assert willing.cancelled()
    assert not stubborn.done()
    [record] = caplog.records
    assert record.message == "1 of the cache's probes did not end in 0.05 s"
    stubborn.get_coro().close()


async def lost(then=None):
    """Loses the cancellation of the current task, and raises something else if told to."""
    asyncio.current_task().cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if then:
            raise then from None


@pytest.mark.parametrize("error", [None, ConnectionError("nobody there")])
async def test_a_cancellation_that_was_lost_is_raised_all_the_same(error):
    async def work():
        with cancellation_kept():
            await lost(error)

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    assert task.cancelled()


async def test_without_a_cancellation_everything_passes():
    with cancellation_kept():
        pass
    with pytest.raises(ConnectionError), cancellation_kept():
        raise ConnectionError


async def test_a_time_out_whose_cancellation_was_lost_ends_all_the_same():
    async def work():
        async with asyncio.timeout(0.01):
            with cancellation_kept():
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    raise ConnectionError from None

    with pytest.raises(TimeoutError):
        await work()
