"""Primaries that fail over, replicas that lag, and clusters whose slots move or whose nodes die."""

import asyncio

import pytest
from redis.crc import key_slot

from sark_cache import InvalidationError
from servers.host import HOST
from timed_requests import ALLOW

# asyncio does not close the transport of a connection that is cancelled while it is made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALICE = ("alice", "read", "doc")
KEY = "sark-cache:1::alice:read:doc:none"


def slot_of(key):
    return key_slot(key.encode())


async def confirmed(cache, **scope):
    """Repeats a revocation until it is confirmed, as a caller that gets the error does.

    That takes until Sentinel has made the old primary a replica: some seconds, or half a minute
    with older servers on a busy machine.
    """
    async with asyncio.timeout(90):
        while True:
            try:
                return await cache.invalidate(**scope)
            except InvalidationError:
                await asyncio.sleep(0.05)


# Sentinel


async def test_a_failover_fails_no_request_and_is_followed(
    fresh_sentinels, open_patiently, watch, recovered
):
    cache = await open_patiently(fresh_sentinels.url)
    await cache.set(*ALICE, ALLOW)
    done = asyncio.Event()
    asking = [asyncio.create_task(watch.ask_until(done, cache)) for _ in range(5)]
    await asyncio.to_thread(fresh_sentinels.failover)
    await recovered(cache)
    done.set()
    await asyncio.gather(*asking)
    watch.assert_in_time()
    assert await confirmed(cache) > 0


async def test_a_primary_that_dies_is_replaced_and_revocations_stay(
    fresh_sentinels, open_patiently, watch, recovered
):
    cache = await open_patiently(fresh_sentinels.url)
    await cache.set(*ALICE, ALLOW)
    await cache.set("bob", "read", "doc", ALLOW)
    assert await cache.delete("bob", "read", "doc") is True
    assert await cache.invalidate(user_id="alice") == 1
    old = fresh_sentinels.primary()
    old.kill()
    await watch.ask(cache, "carol")
    with pytest.raises(InvalidationError):
        await cache.invalidate(user_id="alice")
    done = asyncio.Event()
    asking = asyncio.create_task(watch.ask_until(done, cache))
    await asyncio.to_thread(fresh_sentinels.wait_for_primary, other_than=old)
    await recovered(cache)
    done.set()
    await asking
    watch.assert_in_time()
    assert await cache.get(*ALICE) is None
    assert await cache.get("bob", "read", "doc") is None
    assert await confirmed(cache) > 0


async def test_a_primary_that_was_suspended_during_a_failover_is_not_asked_again(
    fresh_sentinels, open_patiently, recovered
):
    """The old primary still reports that role and has not received the revocation."""
    cache = await open_patiently(fresh_sentinels.url)
    await cache.set(*ALICE, ALLOW)
    assert await asyncio.gather(*(cache.get(*ALICE) for _ in range(10))) == [ALLOW] * 10
    old = fresh_sentinels.primary()
    old.pause()
    assert await cache.get(*ALICE) is None
    await asyncio.to_thread(fresh_sentinels.wait_for_primary, other_than=old)
    await recovered(cache)
    await confirmed(cache, user_id="alice")
    old.resume()
    for _ in range(200):
        assert await cache.get(*ALICE) is None


async def test_a_revocation_is_not_confirmed_before_the_replica_has_it(
    fresh_sentinels, open_patiently
):
    """The replica may be the primary a moment later."""
    cache = await open_patiently(fresh_sentinels.url)
    await cache.set(*ALICE, ALLOW)
    [replica] = [
        server
        for server in (fresh_sentinels.master, fresh_sentinels.replica)
        if server is not fresh_sentinels.primary()
    ]
    replica.pause()
    with pytest.raises(InvalidationError, match="1 of 1 replicas have not confirmed it"):
        await cache.invalidate(user_id="alice")
    with pytest.raises(InvalidationError, match="1 of 1 replicas have not confirmed it"):
        await cache.delete(*ALICE)
    replica.resume()
    await confirmed(cache, user_id="alice")
    assert await cache.get(*ALICE) is None


async def test_no_revocation_is_confirmed_by_a_primary_that_is_being_replaced(
    fresh_sentinels, open_patiently
):
    """For a moment it reports that it is the primary and has no replica, which is then true."""
    cache = await open_patiently(fresh_sentinels.url)
    users = [f"user-{number}" for number in range(2_000)]
    await cache.set_batch([(user, "read", "doc", ALLOW) for user in users])
    failing_over = asyncio.create_task(asyncio.to_thread(fresh_sentinels.failover))
    revoked = []
    for user in users:
        try:
            await cache.delete(user, "read", "doc")
        except InvalidationError:
            continue
        revoked.append(user)
        if failing_over.done():
            break
    await failing_over
    assert revoked
    assert [user for user in revoked if await cache.get(user, "read", "doc") is not None] == []


async def test_a_scan_does_not_continue_with_the_cursor_of_another_server(
    fresh_sentinels, open_patiently
):
    cache = await open_patiently(fresh_sentinels.url)
    rows = [("alice", "read", f"doc-{number}", ALLOW) for number in range(20_000)]
    assert await cache.set_batch(rows) == 20_000, "however long that takes"
    revoking = asyncio.create_task(confirmed(cache, user_id="alice"))
    await asyncio.to_thread(fresh_sentinels.failover)
    await revoking
    assert await cache.size() == 0


# A cluster


async def test_a_slot_that_moved_is_followed(fresh_cluster, open_patiently, watch, recovered):
    cache = await open_patiently(fresh_cluster.url)
    await cache.set(*ALICE, ALLOW)
    slot = slot_of(KEY)
    owner = fresh_cluster.owner_of(slot)
    [target, *_] = [server for server in fresh_cluster.servers if server is not owner]
    done = asyncio.Event()
    asking = asyncio.create_task(watch.ask_until(done, cache))
    await asyncio.to_thread(fresh_cluster.move_slot, slot, target)
    await recovered(cache, *ALICE)
    done.set()
    await asking
    watch.assert_in_time()
    assert await cache.get(*ALICE) == ALLOW
    assert await cache.invalidate(user_id="alice") == 1
    assert await cache.get(*ALICE) is None


async def test_while_a_slot_moves_nothing_fails_and_no_revocation_of_many_is_confirmed(
    fresh_cluster, open_patiently, watch, recovered
):
    """The scan would miss a key that moves to a node it has already scanned."""
    cache = await open_patiently(fresh_cluster.url)
    await cache.set(*ALICE, ALLOW)
    slot = slot_of(KEY)
    owner = fresh_cluster.owner_of(slot)
    [target, *_] = [server for server in fresh_cluster.servers if server is not owner]
    with fresh_cluster.moving(slot, target) as move:
        await watch.ask(cache)
        with pytest.raises(InvalidationError, match="is being moved"):
            await cache.invalidate(user_id="alice")
        move.migrate(*move.keys())
        await watch.ask(cache)
        with pytest.raises(InvalidationError, match="is being moved"):
            await cache.clear()
    watch.assert_in_time()
    await recovered(cache, *ALICE)
    assert await cache.invalidate(*ALICE) == 1


async def test_a_node_that_dies_takes_only_its_own_keys_with_it(own_cluster, open_patiently, watch):
    cluster = own_cluster()
    cache = await open_patiently(cluster.url)
    users = [f"user-{number}" for number in range(60)]
    assert await cache.set_batch([(user, "read", "doc", ALLOW) for user in users]) == 60
    dead = cluster.servers[0]
    lost = {
        user
        for user in users
        if cluster.owner_of(slot_of(f"sark-cache:1::{user}:read:doc:none")) is dead
    }
    assert 0 < len(lost) < 60
    dead.kill()
    for _ in range(3):
        for user in users:
            served = await watch.timed(cache.get(user, "read", "doc"))
            assert served == (None if user in lost else ALLOW) or served is None
    watch.assert_in_time()
    served = [user for user in users if await cache.get(user, "read", "doc") == ALLOW]
    assert set(served) == set(users) - lost
    with pytest.raises(InvalidationError):
        await cache.invalidate(user_id=min(lost))


@pytest.mark.parametrize("failure", ["kill", "pause"])
async def test_a_node_is_asked_again_while_the_node_of_the_url_is_down(
    own_cluster, open_patiently, failure
):
    cluster = own_cluster()
    named, other, _ = cluster.servers
    cache = await open_patiently(f"redis+cluster://{HOST}:{named.port}")
    rows = {}
    for number in range(60):
        row = (f"user-{number}", "read", "doc")
        assert await cache.set(*row, ALLOW)
        rows[cluster.owner_of(slot_of(f"sark-cache:1::{row[0]}:read:doc:none"))] = row
    getattr(named, failure)()
    assert await cache.get(*rows[named]) is None
    other.pause()
    assert await cache.get(*rows[other]) is None
    other.resume()
    async with asyncio.timeout(10):
        while await cache.get(*rows[other]) != ALLOW:
            await asyncio.sleep(0.01)


async def test_a_replica_takes_over_a_dead_node(own_cluster, open_patiently, watch):
    cluster = own_cluster(replicas=1)
    cache = await open_patiently(cluster.url)
    await cache.set(*ALICE, ALLOW)
    assert await cache.invalidate(user_id="alice") == 1
    cluster.owner_of(slot_of(KEY)).kill()
    await watch.ask(cache)
    async with asyncio.timeout(30):  # nodes have 1 s to agree that it is dead, and then to vote
        while await cache.get(*ALICE) is None:
            await cache.set(*ALICE, ALLOW)
            await asyncio.sleep(0.05)
    watch.assert_in_time()
    assert await cache.invalidate(*ALICE) == 1
