"""A server that comes back with an older state: what was revoked since then is not served."""

import asyncio
import json

import pytest
from redis.crc import key_slot

from sark_cache import TieredPolicyCache
from sark_cache.backends.redis import PolicyCache
from timed_requests import ALLOW

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALICE = ("alice", "read", "doc")
DENY = {"allow": False}
BOB = ("bob", "read", "doc")
LOG, HEAD = "{policy:decision}.log", "{policy:decision}.head"


def slot_of(key):
    return key_slot(key.encode())


async def deny():
    return DENY


def return_to(server):
    """Restarts a server with the state of its last snapshot."""
    server.kill()
    server.start()


def endings(server):
    """Returns the records that say that the log has another history."""
    records = [json.loads(fields[3]) for _, fields in server.command("XRANGE", LOG, "-", "+")]
    return [record for record in records if "history" in record]


async def test_a_decision_that_was_revoked_after_a_snapshot_is_not_served(
    own_redis, open_cache, recovered
):
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.set(*ALICE, ALLOW)
    server.command("SAVE")
    assert await cache.invalidate(user_id="alice") == 1
    return_to(server)
    await recovered(cache)
    assert await cache.get(*ALICE) is None
    assert await cache.get_batch([ALICE]) == [None]
    assert await cache.get_or_load(*ALICE, deny) == DENY
    assert await cache.get(*ALICE) == DENY


async def test_a_process_that_starts_after_the_restart_does_not_serve_it_either(
    own_redis, open_cache
):
    server = own_redis()
    before = await open_cache(server.url)
    await before.set(*ALICE, ALLOW)
    server.command("SAVE")
    await before.invalidate(user_id="alice")
    return_to(server)
    after = await open_cache(server.url)
    assert await after.get(*ALICE) is None


async def test_a_load_that_began_before_the_restart_is_not_stored(own_redis, open_cache, recovered):
    """The log that is back contains the position of the load, but not the revocation."""
    server = own_redis()
    cache = await open_cache(server.url)
    other = await open_cache(server.url)
    asked, restarted = asyncio.Event(), asyncio.Event()

    async def slow():
        asked.set()
        await restarted.wait()
        return ALLOW

    loading = asyncio.create_task(cache.get_or_load(*ALICE, slow))
    await asked.wait()
    stamp = cache.stamp()
    server.command("SAVE")
    await other.invalidate(user_id="alice")
    return_to(server)
    await recovered(other)
    await recovered(cache)
    restarted.set()
    assert await loading == ALLOW
    assert await cache.get(*ALICE) is None
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


@pytest.mark.parametrize("lost", ["head", "log"])
async def test_a_snapshot_without_a_part_of_the_log_stores_no_load_from_before(
    own_redis, open_cache, recovered, lost
):
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.invalidate(user_id="bob")
    await cache.get(*ALICE)
    stamp = cache.stamp()
    server.command("DEL", HEAD if lost == "head" else LOG)
    server.command("SAVE")
    await cache.invalidate(user_id="alice")
    return_to(server)
    await recovered(cache)
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False


async def test_the_first_revocation_after_the_restart_does_not_hide_it(own_redis, open_cache):
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.get(*ALICE)
    stamp = cache.stamp()
    server.command("SAVE")
    await cache.invalidate(user_id="alice")
    return_to(server)
    async with asyncio.timeout(10):
        while not await cache.health_check():
            await asyncio.sleep(0.01)
    await cache.invalidate(user_id="bob")
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False


async def test_a_restart_is_recorded_once_however_many_notice_it(own_redis, open_cache, recovered):
    server = own_redis(maxclients=1_000)
    first = await open_cache(server.url)
    await first.set(*ALICE, ALLOW)
    server.command("SAVE")
    return_to(server)
    await recovered(first)
    caches = [
        await open_cache(server.url, connect_timeout=5.0, command_timeout=5.0) for _ in range(200)
    ]
    assert await asyncio.gather(*(cache.get(*ALICE) for cache in caches)) == [None] * 200
    assert await asyncio.gather(*(cache.set(*BOB, ALLOW) for cache in caches)) == [True] * 200
    assert len(endings(server)) == 1
    return_to(server)
    await recovered(first)
    await asyncio.gather(*(cache.get(*ALICE) for cache in caches))
    assert len(endings(server)) == 1, "the same snapshot, and one more restart"


async def test_a_node_of_a_cluster_serves_nothing_from_before_its_restart(
    own_cluster, open_patiently, recovered
):
    """The log may be on another node, which was not restarted."""
    cluster = own_cluster()
    cache = await open_patiently(cluster.url)
    rows, others = {}, {}
    for number in range(60):
        row = (f"user-{number}", "read", "doc")
        node = cluster.owner_of(slot_of(f"sark-cache:1::{row[0]}:read:doc:none"))
        others[node] = rows.get(node)
        rows[node] = row
    await cache.set_batch([(*row, ALLOW) for row in rows.values()])
    assert await cache.get_batch(list(rows.values())) == [ALLOW] * 3
    elsewhere = next(node for node in rows if node is not cluster.owner_of(slot_of(LOG)))
    elsewhere.command("SAVE")
    await cache.invalidate(user_id=rows[elsewhere][0])
    return_to(elsewhere)
    cluster.settle()  # a master that restarted refuses commands for more than two seconds
    await recovered(cache, *others[elsewhere])
    assert await cache.get(*rows[elsewhere]) is None
    kept = [row for node, row in rows.items() if node is not elsewhere]
    assert await cache.get_batch(kept) == [ALLOW] * 2


async def test_a_tiered_cache_serves_nothing_from_before_the_restart(own_redis):
    server = own_redis()
    async with (
        TieredPolicyCache(server.url, max_staleness=0.25) as cache,
        PolicyCache(server.url) as other,
    ):
        assert await cache.confirm()
        await cache.set(*ALICE, ALLOW)
        server.command("SAVE")
        await other.invalidate(user_id="alice")
        return_to(server)
        await cache.set(*BOB, ALLOW)
        async with asyncio.timeout(10):
            while not await cache.confirm():
                await asyncio.sleep(0.01)
        assert await cache.get(*ALICE) is None


async def test_a_server_that_does_not_report_its_history_is_used_as_before(own_redis, open_cache):
    server = own_redis()
    server.command(
        *("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all", "-info", "-role"),
    )
    url = server.url.replace("redis://", "redis://limited:secret@")
    cache = await open_cache(url)
    assert await cache.set(*ALICE, ALLOW)
    assert await cache.get(*ALICE) == ALLOW
    assert await cache.invalidate(user_id="alice") == 1
    assert await cache.get(*ALICE) is None
