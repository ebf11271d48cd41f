"""A request has one time-out for all commands that it sends."""

import asyncio

import pytest

from sark_cache.backends.redis import PolicyCache
from servers.proxy import DelayingProxy
from timed_requests import ALLOW, SPARE_SECONDS

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALICE = ("alice", "read", "doc")
TIMEOUT = 0.5
SLOW = 0.8 * TIMEOUT
"""The delay of each reply: one delayed reply is in time, two are not."""


async def evaluate():
    return dict(ALLOW)


async def evaluate_more_than_can_be_stored():
    return {"allow": True, "reason": "x" * 70_000}


REQUESTS = {
    "get": lambda cache: cache.get(*ALICE),
    "get_or_load": lambda cache: cache.get_or_load(*ALICE, evaluate),
    "get_or_load of too much": lambda cache: cache.get_or_load(
        *ALICE, evaluate_more_than_can_be_stored
    ),
    "set": lambda cache: cache.set(*ALICE, ALLOW),
    "set with a stamp": lambda cache: cache.set(*ALICE, ALLOW, stamp=cache.stamp()),
    "set of what cannot be stored": lambda cache: cache.set(*ALICE, {"allow": object()}),
    "set_batch": lambda cache: cache.set_batch([(*ALICE, ALLOW), ("bob", "read", "doc", ALLOW)]),
    "get_batch": lambda cache: cache.get_batch([ALICE, ("bob", "read", "doc")]),
}


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_request_takes_no_longer_than_its_time_whatever_it_asks(own_redis, watch, request_):
    watch.command_seconds = TIMEOUT
    async with (
        DelayingProxy(own_redis()) as proxy,
        PolicyCache(proxy.url, connect_timeout=5, command_timeout=TIMEOUT) as cache,
    ):
        assert await cache.health_check()
        await cache.get("warm", "read", "doc")
        await cache.invalidate(user_id="alice")
        proxy.delay = SLOW
        await watch.timed(REQUESTS[request_](cache))
        watch.assert_in_time()
        assert watch.longest > SLOW - SPARE_SECONDS
        proxy.delay = 0.0


async def test_the_time_of_an_evaluation_is_not_that_of_the_servers(own_redis):
    async def evaluate_for_long():
        await asyncio.sleep(1.5 * TIMEOUT)
        return dict(ALLOW)

    async with PolicyCache(own_redis().url, command_timeout=TIMEOUT) as cache:
        assert await cache.health_check()
        assert await cache.get_or_load(*ALICE, evaluate_for_long) == ALLOW
        assert await cache.get(*ALICE) == ALLOW, "it was stored after the deadline"
