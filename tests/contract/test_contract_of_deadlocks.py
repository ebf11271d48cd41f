"""Loaders that request other decisions: a deadlock raises an error, no request waits forever."""

import asyncio

import pytest

from in_tasks import gathered, in_a_group, in_a_task, in_its_own_task, reason
from loaders import ALLOW, REQUEST, bringing, never
from sark_cache import RustPolicyCache, is_rust_cache_available

OTHER = ("bob", "read", "doc")
SOON = 4
"""Seconds, fewer than a waiting request waits before it evaluates on its own."""


@pytest.mark.parametrize("asks", [in_its_own_task, in_a_task, gathered, in_a_group])
async def test_a_loader_that_would_wait_for_itself_gets_an_error(cache, asks):
    async def load():
        return await asks(cache.get_or_load(*REQUEST, never))

    async with asyncio.timeout(SOON):
        with pytest.raises((RuntimeError, ExceptionGroup)) as raised:
            await cache.get_or_load(*REQUEST, load)
    assert "must not load its own key" in reason(raised.value)


async def answers_of_both(cache, second):
    """Returns the answers of two caches whose loaders each request the other's decision."""
    both = asyncio.Barrier(2)

    def loads(other, request):
        async def load():
            await both.wait()
            return await other.get_or_load(*request, never)

        return load

    async with asyncio.timeout(SOON):
        return await asyncio.gather(
            cache.get_or_load(*REQUEST, loads(second, OTHER)),
            second.get_or_load(*OTHER, loads(cache, REQUEST)),
            return_exceptions=True,
        )


async def test_loaders_that_would_wait_for_each_other_get_an_error(cache):
    for answer in await answers_of_both(cache, cache):
        assert "must not load each other's keys" in str(answer)


@pytest.mark.skipif(not is_rust_cache_available(), reason="takes the compiled module")
async def test_loaders_of_two_caches_that_would_wait_for_each_other_get_an_error(cache):
    async with RustPolicyCache() as native:
        for answer in await answers_of_both(cache, native):
            assert "must not load each other's keys" in str(answer)


async def test_a_task_that_the_loader_does_not_await_is_answered(cache):
    background = []

    async def load():
        background.append(asyncio.create_task(cache.get_or_load(*REQUEST, never)))
        await asyncio.sleep(0.1)
        return ALLOW

    assert await cache.get_or_load(*REQUEST, load) == ALLOW
    assert await background[0] == ALLOW


async def test_a_request_that_waits_for_too_long_evaluates_on_its_own(cache):
    async def stuck():
        await asyncio.Event().wait()

    stuck = asyncio.create_task(cache.get_or_load(*REQUEST, stuck))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW
    assert cache.metrics.overdue == 1
    assert await cache.get_or_load(*REQUEST, never) == ALLOW
    stuck.cancel()
