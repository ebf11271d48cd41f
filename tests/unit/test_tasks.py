"""Tasks end within a limit, even if a cancellation is lost on the way."""

import asyncio

import pytest

from sark_cache._core.tasks import cancellation_kept, end


async def losing(cancellations):
    """Ignores `cancellations` cancellations, like a loop around a client that loses them."""
    while cancellations:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancellations -= 1


async def begun(coroutine):
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


async def test_without_tasks_it_returns_at_once(caplog):
    await end([], "probes")
    await end([await begun(losing(0))], "probes")
    assert caplog.records == []


@pytest.mark.parametrize("lost", [0, 1, 3])
async def test_a_task_that_loses_cancellations_is_cancelled_again(lost, caplog):
    task = await begun(losing(lost))
    await end([task], "probes")
    assert task.done()
    assert caplog.records == []


async def test_a_task_that_never_ends_is_waited_for_up_to_the_limit(caplog):
    stubborn, willing = await begun(losing(10**6)), await begun(asyncio.sleep(3600))
    async with asyncio.timeout(10):
        await end([stubborn, willing], "probes", 0.05)
    assert willing.cancelled()
    assert not stubborn.done()
    [record] = caplog.records
    assert record.message == "1 of the cache's probes did not end in 0.05 s"
    stubborn.get_coro().close()


async def lost(then=None):
    """Loses the cancellation of the current task, and raises another error if given one."""
    asyncio.current_task().cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if then:
            raise then from None


@pytest.mark.parametrize("error", [None, ConnectionError("nobody there")])
async def test_a_lost_cancellation_is_raised_again(error):
    async def work():
        with cancellation_kept():
            await lost(error)

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    assert task.cancelled()


async def test_without_a_cancellation_errors_pass_through():
    with cancellation_kept():
        pass
    with pytest.raises(ConnectionError), cancellation_kept():
        raise ConnectionError


async def test_a_time_out_whose_cancellation_was_lost_ends_the_block():
    async def work():
        async with asyncio.timeout(0.01):
            with cancellation_kept():
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    raise ConnectionError from None

    with pytest.raises(TimeoutError):
        await work()
