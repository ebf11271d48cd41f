"""Long input of one client costs the event loop and the server little."""

import functools
import time

import pytest

from sark_cache import Loaded, PolicyCache
from sark_cache.backends._shared.load_many import REQUESTS_AT_ONCE
from sark_cache.backends.redis.store import DecisionStore

ALLOW = {"allow": True}
LOG, HEAD = "{policy:decision}.log", "{policy:decision}.head"
READERS = "{policy:decision}.readers"
PATIENT = {"connect_timeout": 10, "command_timeout": 10}


async def evaluate():
    return Loaded(ALLOW, tags=["role:admin"])


@pytest.mark.parametrize("letter", ["a", ":", "é", "{"])
@pytest.mark.parametrize("length", [9_000, 10**6, 10**7])
async def test_a_long_field_is_refused_before_it_is_processed(fresh_redis, letter, length):
    async with PolicyCache(fresh_redis.url, **PATIENT) as cache:
        assert await cache.health_check()
        request = ("mallory", "GET", letter * length)
        began = time.thread_time()
        for _ in range(10):
            assert await cache.get(*request) is None
            assert await cache.set(*request, ALLOW) is False
            assert await cache.get_or_load(*request, evaluate) == ALLOW
            assert await cache.get_batch([request]) == [None]
            assert await cache.set_batch([(*request, ALLOW)]) == 0
            assert await cache.delete(*request) is False
            assert await cache.invalidate(resource=request[2]) == 0
        assert time.thread_time() - began < 0.1, "a path of 1 MB took 0.7 s a request"
        assert cache.metrics.errors == 60
    assert sorted(fresh_redis.command("KEYS", "*")) == [HEAD, LOG, READERS]
    assert fresh_redis.command("XLEN", LOG) == 1, "it was begun, and nothing else"


async def test_decisions_that_cannot_be_stored_take_little_room_in_the_log(fresh_redis):
    async with PolicyCache(fresh_redis.url, **PATIENT) as cache:
        for i in range(100):
            request = (f"{i}-" + ":" * 8_000, "GET" * 2_000, "/" * 8_000)
            assert await cache.set(*request, {"x": "y" * 70_000}) is False
            assert await cache.delete(*request, policy="x" * 256) is False
            await cache.invalidate(*request, tags=["t" * 256])
        records = fresh_redis.command("XRANGE", LOG, "-", "+")
    assert len(records) >= 300
    named = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in records]
    assert max(len(fields.pop("r")) for fields in named) < 600
    assert max(len("".join(fields.values())) for fields in named) < 60


class AtOnce:
    """Counts the calls of a method that run at the same time."""

    def __init__(self, method):
        self.most = self._running = 0
        self._method = method

    def __get__(self, instance, owner):
        return functools.partial(self._counted, instance)

    async def _counted(self, *args, **kwargs):
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            return await self._method(*args, **kwargs)
        finally:
            self._running -= 1


async def test_few_requests_of_a_large_batch_use_the_server_at_once(fresh_redis, monkeypatch):
    """A command may take some time, and the time in which it waits for a connection counts."""
    look_up, put = AtOnce(DecisionStore.look_up), AtOnce(DecisionStore.put)
    monkeypatch.setattr(DecisionStore, "look_up", look_up)
    monkeypatch.setattr(DecisionStore, "put", put)

    async def load(requests):
        return [ALLOW] * len(requests)

    requests = [("alice", "read", f"doc-{number}") for number in range(1_500)]
    async with PolicyCache(fresh_redis.url, **PATIENT) as cache:
        assert await cache.get_or_load_many(requests, load) == [ALLOW] * 1_500
        assert await cache.size() == 1_500
        metrics = cache.metrics
        assert (metrics.errors, metrics.loads, metrics.misses) == (0, 1_500, 1_500)
    assert 1 < look_up.most <= REQUESTS_AT_ONCE
    assert 1 < put.most <= REQUESTS_AT_ONCE
