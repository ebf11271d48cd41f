"""A revocation scans the keys of a server only if decisions may be stored there."""

import asyncio
from itertools import count

import pytest

from sark_cache import InvalidationError
from sark_cache.backends.redis import PolicyCache
from servers.proxy import SwitchingProxy
from tiers import opened, tier

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")
BOB = ("bob", "read", "doc")
HEAD = "{policy:decision}.head"
SPAN = 0.1
PATIENT = {"connect_timeout": 10, "command_timeout": 10, "max_staleness": SPAN}


class Commands:
    """Counts the commands of one name that a server runs."""

    def __init__(self, server, name):
        self._server = server
        self._name = name
        self._before = self._all()

    def _all(self):
        stats = self._server.info("commandstats").get(f"cmdstat_{self._name}", "calls=0")
        return int(stats.partition("calls=")[2].partition(",")[0])

    def count(self):
        """Returns the number of commands since the last call."""
        now = self._all()
        self._before, found = now, now - self._before
        return found


@pytest.fixture
async def server(own_redis):
    server = own_redis()
    for number in range(100):
        server.command("SET", f"session:{number}", "of another program")
    return server


@pytest.fixture
async def cache(server):
    async with PolicyCache(server.url, **PATIENT) as cache:
        assert await cache.health_check()
        yield cache


@pytest.fixture
async def other(server):
    async with PolicyCache(server.url, **PATIENT) as cache:
        assert await cache.health_check()
        yield cache


WAYS = {
    "invalidate": lambda cache: cache.invalidate("alice"),
    "tags": lambda cache: cache.invalidate(tags=["team"]),
    "pattern": lambda cache: cache.invalidate_pattern("policy:decision:alice:*"),
    "delete of any policy": lambda cache: cache.delete(*ALICE),
    "clear": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_without_decisions_is_scanned_once(server, cache, other, way):
    scanned = Commands(server, "scan")
    await WAYS[way](cache)
    assert scanned.count() > 0
    for one in (cache, other, cache):
        await WAYS[way](one)
    assert scanned.count() == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_decision_that_was_stored_since_is_found(server, cache, other, way):
    await WAYS[way](cache)
    await other.set(*ALICE, ALLOW, tags=["team"])
    await other.set(*BOB, ALLOW)
    await WAYS[way](cache)
    assert await other.get(*ALICE) is None
    assert (await other.get(*BOB) is None) == (way == "clear")


async def test_a_server_whose_decisions_were_all_revoked_is_scanned_once_more(server, cache):
    await cache.set(*ALICE, ALLOW)
    assert await cache.invalidate("alice") == 1
    scanned = Commands(server, "scan")
    await cache.invalidate("alice")
    assert scanned.count() > 0
    await cache.invalidate("alice")
    assert scanned.count() == 0


async def test_a_server_with_any_decision_is_scanned(server, cache):
    await cache.set(*BOB, ALLOW)
    scanned = Commands(server, "scan")
    for _ in range(3):
        await cache.invalidate("alice")
        assert scanned.count() > 0


async def test_a_tiered_cache_does_not_scan_either(server, cache):
    async with opened(tier(server.url, max_staleness=SPAN)) as (tiered,):
        await tiered.invalidate("bob")
        scanned = Commands(server, "scan")
        await tiered.set(*ALICE, ALLOW)
        await tiered.invalidate("alice")
        assert scanned.count() == 0
        await cache.set(*ALICE, ALLOW)
        await tiered.invalidate("alice")
        assert scanned.count() > 0
        assert await cache.get(*ALICE) is None


@pytest.mark.parametrize("when", ["before the scan", "after the scan"])
async def test_a_decision_that_is_stored_during_the_scan_is_found_later(
    server, cache, other, when, monkeypatch
):
    """It may be stored behind the cursor, so this scan need not find it."""
    from sark_cache.backends.redis import store

    scan_all = store.scan_all

    async def slow(*arguments):
        if when == "before the scan":
            await other.set(*ALICE, ALLOW)
        removed = await scan_all(*arguments)
        if when == "after the scan":
            await other.set(*ALICE, ALLOW)
        return removed

    monkeypatch.setattr(store, "scan_all", slow)
    await cache.invalidate("carol")
    monkeypatch.undo()
    scanned = Commands(server, "scan")
    assert await cache.invalidate("alice") == 1
    assert scanned.count() > 0
    assert await other.get(*ALICE) is None


async def test_a_record_that_arrives_twice_does_not_renew_an_older_scan(server, cache, other):
    """A client sends a command again if its connection breaks. The first copy may arrive late."""
    log = cache._store._log
    append = log.append({"user_id": "carol"}, with_decisions=True)
    position, stored = server.command(*append)
    assert stored == position, "from here on a scan finds nothing"
    await other.set(*ALICE, ALLOW)
    server.command(*append)
    run = server.info("server")["run_id"]
    assert server.command(*log.note_none(position, run)) == 0
    assert await cache.invalidate("alice") == 1
    assert await other.get(*ALICE) is None


async def test_a_scan_of_another_server_is_not_noted(server, cache):
    log = cache._store._log
    position, _ = server.command(*log.append({"user_id": "carol"}, with_decisions=True))
    assert server.command(*log.note_none(position, "0" * 40)) == 0
    assert server.command(*log.note_none(position, server.info("server")["run_id"])) == 1


async def test_a_scan_that_another_server_answers_is_not_confirmed(server, own_redis):
    """A proxy may lead to another server for a while, and then to the first one again."""
    elsewhere = own_redis()
    async with (
        SwitchingProxy(server, elsewhere) as proxy,
        PolicyCache(proxy.url, **PATIENT) as behind,
        PolicyCache(server.url, **PATIENT) as direct,
    ):
        assert await behind.health_check()
        await direct.set(*ALICE, ALLOW)
        proxy.switches = True
        with pytest.raises(InvalidationError, match="another server"):
            await behind.invalidate("nobody")
        proxy.switches = False
        assert await direct.invalidate("alice") == 1
        assert await direct.get(*ALICE) is None


async def test_revocations_at_once_note_it_together(server, cache, other):
    await asyncio.gather(*(one.invalidate("alice") for one in (cache, other) for _ in range(20)))
    scanned = Commands(server, "scan")
    await cache.invalidate("alice")
    assert scanned.count() == 0


@pytest.mark.parametrize("loss", ["the head", "the log and the head", "a restart", "an older form"])
async def test_after_a_loss_the_keys_are_scanned(server, loss):
    async with PolicyCache(server.url, **PATIENT) as cache:
        await cache.invalidate("alice")
        await cache.invalidate("alice")
    if loss == "a restart":
        server.command("SAVE")
        server.kill()
        server.start()
    elif loss == "an older form":
        server.command("SET", HEAD, server.command("GET", HEAD).rpartition(" ")[0])
    else:
        lost = [HEAD] if loss == "the head" else [HEAD, HEAD.replace("head", "log")]
        server.command("DEL", *lost)
    scanned = Commands(server, "scan")
    async with PolicyCache(server.url, **PATIENT) as cache:
        while not await cache.health_check():
            await asyncio.sleep(0.01)
        scanned.count()
        await cache.invalidate("alice")
        assert scanned.count() > 0


async def test_a_server_that_does_not_report_its_history_is_always_scanned(server):
    """After a restart from a snapshot, the head could be older than a decision."""
    server.command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all", "-info")
    async with PolicyCache(
        server.url.replace("redis://", "redis://limited:secret@"), **PATIENT
    ) as cache:
        assert await cache.health_check()
        scanned = Commands(server, "scan")
        for _ in range(3):
            await cache.invalidate("alice")
            assert scanned.count() > 0


async def test_every_node_of_a_cluster_is_always_scanned(fresh_cluster):
    """A decision and the head may be on different nodes, so no step writes both."""
    async with PolicyCache(fresh_cluster.url, **PATIENT) as cache:
        assert await cache.health_check()
        for _ in range(3):
            scanned = [Commands(node, "scan") for node in fresh_cluster.servers]
            await cache.invalidate("alice")
            assert all(one.count() > 0 for one in scanned)
        for number in range(20):
            await cache.set(f"user-{number}", "read", "doc", ALLOW)
        assert await cache.invalidate() == 20


async def test_whatever_is_stored_while_others_revoke_is_found(server, cache, other):
    """Stores and revocations of two caches take turns in every order."""
    users = count()
    stop = asyncio.Event()

    async def revoke():
        while not stop.is_set():
            await cache.invalidate("nobody")

    async def store_and_revoke():
        for _ in range(150):
            user = f"user-{next(users)}"
            stored = await other.set(user, "read", "doc", ALLOW)
            assert await other.invalidate(user) == int(stored)
            assert await other.get(user, "read", "doc") is None

    revoking = [asyncio.create_task(revoke()) for _ in range(3)]
    await asyncio.gather(store_and_revoke(), store_and_revoke())
    stop.set()
    await asyncio.gather(*revoking)


async def test_each_page_of_many_keys_is_removed_by_one_command(server, cache):
    for start in range(0, 10_000, 2_500):
        entries = [("alice", "read", f"{start + number}", ALLOW) for number in range(2_500)]
        assert await cache.set_batch(entries) == len(entries)
    pages, removals = Commands(server, "scan"), Commands(server, "unlink")
    assert await cache.invalidate("alice") == 10_000
    # The first page has few keys. A page has a key more or less than requested.
    assert removals.count() <= pages.count() + 5
