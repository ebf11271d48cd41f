"""A server clock that is set back prolongs the TTL of entries, which are then not served."""

import pytest

from sark_cache import PolicyCache

ALICE = ("alice", "read", "doc")
ALLOW, DENY = {"allow": True}, {"allow": False}
KEY = "sark-cache:1::alice:read:doc:none"
HOUR_MS = 3_600_000


@pytest.fixture
async def cache(fresh_redis):
    async with PolicyCache(fresh_redis.url, connect_timeout=10, command_timeout=10) as cache:
        yield cache


async def bringing_deny():
    return DENY


async def test_an_entry_with_more_ttl_left_than_it_had_is_a_miss(fresh_redis, cache, caplog):
    await cache.set(*ALICE, ALLOW, ttl_seconds=2)
    fresh_redis.command("PEXPIRE", KEY, HOUR_MS)
    assert await cache.get(*ALICE) is None
    assert await cache.get_decision(*ALICE) is None
    assert await cache.get_batch([ALICE]) == [None]
    assert (cache.metrics.hits, cache.metrics.misses, cache.metrics.errors) == (0, 3, 3)
    assert "the server's clock went back" in caplog.text
    assert await cache.get_or_load(*ALICE, bringing_deny) == DENY
    assert await cache.get(*ALICE) == DENY, "it took the place of the other one"


@pytest.mark.parametrize("ttl", [0.001, 0.1, 2, 300, 1e9])
async def test_an_entry_with_its_whole_ttl_left_is_a_hit(fresh_redis, cache, ttl):
    await cache.set(*ALICE, ALLOW, ttl_seconds=ttl)
    if ttl > 1:
        assert await cache.get(*ALICE) == ALLOW
        assert await cache.get_batch([ALICE]) == [ALLOW]
    fresh_redis.command("PEXPIRE", KEY, int(1e3 * ttl) + 500)
    assert await cache.get(*ALICE) is None
    assert await cache.get_batch([ALICE]) == [None]


async def test_an_entry_without_expiration_is_a_miss(fresh_redis, cache):
    await cache.set(*ALICE, ALLOW)
    fresh_redis.command("PERSIST", KEY)
    assert await cache.get(*ALICE) is None
    assert await cache.get_batch([ALICE]) == [None]
