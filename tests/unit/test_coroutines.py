"""Functions that return awaitables: recognized as async, and their result may be dropped."""

import asyncio
import gc
import inspect
import sys
from unittest.mock import MagicMock

import pytest

from sark_cache._core.coroutines import Deferred, returns_awaitable


async def seven():
    await asyncio.sleep(0)
    return 7


class Things:
    @returns_awaitable
    def count(self):
        return Deferred(seven)


def test_a_marked_method_is_recognized_as_async():
    for method in (Things.count, Things().count):
        assert asyncio.iscoroutinefunction(method)
        assert inspect.iscoroutinefunction(method) is (sys.version_info >= (3, 12))


async def test_a_mock_of_it_returns_awaitables():
    things = MagicMock(spec=Things)
    things.count.return_value = 8
    assert await things.count() == 8


async def test_it_can_be_awaited_in_every_way():
    assert await Deferred(seven) == 7
    assert await asyncio.create_task(Deferred(seven)) == 7
    assert await asyncio.gather(Deferred(seven), Deferred(seven)) == [7, 7]
    assert await asyncio.wait_for(Deferred(seven), 10) == 7


def test_it_is_run_as_the_main_coroutine_of_an_event_loop():
    assert asyncio.iscoroutine(waiting := Deferred(seven))
    assert asyncio.run(waiting) == 7


async def test_it_can_be_awaited_once():
    once = Deferred(seven)
    await once
    with pytest.raises(RuntimeError, match="already awaited"):
        await once


async def test_it_can_be_cancelled():
    ended = []

    async def for_ever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    task = asyncio.create_task(Deferred(for_ever))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


def test_dropping_or_closing_it_does_not_warn(recwarn):
    Deferred(seven)
    Deferred(seven).close()
    gc.collect()
    assert not recwarn.list


def test_an_exception_thrown_into_it_is_raised():
    with pytest.raises(LookupError, match="gone"):
        Deferred(seven).throw(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        Deferred(seven).throw(LookupError, LookupError("gone"), None)


async def test_a_failed_call_is_not_repeated():
    def fail():
        raise LookupError

    broken = Deferred(fail)
    with pytest.raises(LookupError):
        await broken
    with pytest.raises(RuntimeError, match="already awaited"):
        await broken
