"""No process serves a decision that another process revoked, for every way to revoke."""

import asyncio
import time

import pytest

from interpreters import run
from loaders import ALLOW, DENY, ControlledLoader, begun, bringing
from loaders import REQUEST as ALICE
from sark_cache.backends.redis import PolicyCache
from sark_cache.backends.tiered import thread
from sark_cache.backends.tiered.bell import Bell
from sark_cache.backends.tiered.watch import Watch
from sark_cache.errors import InvalidationError
from tiers import opened, tier, until, until_gone

BOB = ("bob", "read", "doc")
POLICY = "module:is_admin"
CONTEXT = {"ip": "10.0.0.1"}
LOG, HEAD = "{policy:decision}.log", "{policy:decision}.head"
READERS = "{policy:decision}.readers"
LONG = "x" * 300
"""A field that the log holds as a hash."""


@pytest.fixture
async def here(fresh_redis):
    async with opened(tier(fresh_redis.url)) as (cache,):
        yield cache


@pytest.fixture
async def elsewhere(fresh_redis, here):
    """A cache that stands for another process."""
    async with opened(tier(fresh_redis.url)) as (cache,):
        yield cache


WAYS = {
    "user": lambda cache: cache.invalidate("alice"),
    "action": lambda cache: cache.invalidate(action="read"),
    "resource": lambda cache: cache.invalidate(resource="doc"),
    "policy": lambda cache: cache.invalidate(policy=POLICY),
    "request": lambda cache: cache.invalidate(*ALICE, policy=POLICY),
    "tag": lambda cache: cache.invalidate(tags=["team"]),
    "one of several tags": lambda cache: cache.invalidate("alice", tags=["other", "team"]),
    "everything": lambda cache: cache.clear(),
    "pattern": lambda cache: cache.invalidate_pattern("policy:decision:alice:*"),
    "delete": lambda cache: cache.delete(*ALICE, policy=POLICY),
    "delete of any policy": lambda cache: cache.delete(*ALICE),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_revocation_by_another_process_takes_effect_here(way, here, elsewhere):
    await here.set(*ALICE, ALLOW, policy=POLICY, tags=["team"])
    await WAYS[way](elsewhere)
    await until_gone(here, ALICE, policy=POLICY)
    assert here.metrics.foreign_revocations == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_revocation_by_a_redis_cache_takes_effect_here(way, here, fresh_redis):
    await here.set(*ALICE, ALLOW, policy=POLICY, tags=["team"])
    async with PolicyCache(fresh_redis.url) as cache:
        await WAYS[way](cache)
    await until_gone(here, ALICE, policy=POLICY)


@pytest.mark.parametrize("way", WAYS)
async def test_a_revocation_here_removes_what_redis_caches_stored(way, here, fresh_redis):
    async with PolicyCache(fresh_redis.url) as cache:
        await cache.set(*ALICE, ALLOW, policy=POLICY, tags=["team"])
        await WAYS[way](here)
        assert await cache.get(*ALICE, policy=POLICY) is None


OTHERS = {
    "user": lambda cache: cache.invalidate("bob"),
    "action": lambda cache: cache.invalidate(action="write"),
    "policy": lambda cache: cache.invalidate(policy="other"),
    "tag": lambda cache: cache.invalidate(tags=["other"]),
    "pattern": lambda cache: cache.invalidate_pattern("policy:decision:bob:*"),
    "delete": lambda cache: cache.delete(*BOB, policy=POLICY),
    "delete of another policy": lambda cache: cache.delete(*ALICE, policy="other"),
}


@pytest.mark.parametrize("way", OTHERS)
async def test_a_revocation_of_other_decisions_leaves_the_entries_here(way, here, elsewhere):
    await here.set(*ALICE, ALLOW, policy=POLICY, tags=["team"])
    flushes = here.metrics.flushes
    await OTHERS[way](elsewhere)
    await until(lambda: here.metrics.foreign_revocations == 1)
    assert await here.get(*ALICE, policy=POLICY) == ALLOW
    assert here.metrics.flushes == flushes


async def test_a_delete_of_one_context_revokes_all_contexts_elsewhere(here, elsewhere):
    await here.set(*ALICE, ALLOW, CONTEXT)
    await elsewhere.delete(*ALICE, CONTEXT, policy="")
    await until_gone(here, (*ALICE, CONTEXT))


async def test_a_field_that_the_log_holds_as_a_hash_revokes_more_and_never_less(here, elsewhere):
    await here.set(LONG, "read", "doc", ALLOW)
    await here.set(*BOB, ALLOW)
    await elsewhere.invalidate(LONG, "read")
    await until_gone(here, (LONG, "read", "doc"))
    assert await here.get(*BOB) is None


async def test_a_revocation_is_in_effect_here_when_it_is_called(here):
    await here.set(*ALICE, ALLOW)
    revoking = here.invalidate("alice")
    assert await here.get(*ALICE) is None
    assert await revoking == 1


async def test_a_revocation_elsewhere_takes_effect_without_a_confirmation(own_redis):
    server = own_redis()
    here, elsewhere = (tier(server.url, max_staleness=60.0, settle=False) for _ in range(2))
    async with opened(here, elsewhere):
        await here.set(*ALICE, ALLOW)
        before = server.info("commandstats")["cmdstat_xrange"]
        await elsewhere.invalidate("alice")
        await until_gone(here, ALICE)
        await until(lambda: len(set(server.command("HVALS", READERS)[1:])) == 1)
        assert server.info("commandstats")["cmdstat_xrange"] == before


async def test_a_record_whose_predecessor_is_unknown_takes_effect(own_redis):
    server = own_redis()
    async with opened(tier(server.url, max_staleness=60.0)) as (here,):
        await here.set(*ALICE, ALLOW)
        record = ("n", "f" * 16, "r", '{"user_id":"alice"}')
        server.command("XADD", LOG, "*", *record)
        await until_gone(here, ALICE)
        assert here.metrics.foreign_revocations == 1


async def test_the_bell_follows_a_log_that_began_again_with_lower_ids(own_redis, monkeypatch):
    armed = []
    arm = Bell.arm
    monkeypatch.setattr(
        Bell, "arm", lambda bell, at, *rest: (armed.append(at), arm(bell, at, *rest))
    )
    monkeypatch.setattr(thread, "BELL_SECONDS", 0.1)
    server = own_redis()
    ahead = int(time.time() * 1e3) + 60_000
    server.command("XADD", LOG, f"{ahead}-0", "n", "0" * 16, "r", '{"begun":true}')
    async with opened(tier(server.url, max_staleness=0.5)) as (here,):
        await until(lambda: armed)
        assert armed[0].id == f"{ahead}-0"
        server.command("DEL", LOG, HEAD)
        await until(lambda: here.metrics.flushes > 0)
        await until(lambda: armed[-1].id != f"{ahead}-0")
        [[newest, _]] = server.command("XREVRANGE", LOG, "+", "-", "COUNT", 1)
        assert armed[-1].id == newest


@pytest.mark.parametrize("protocol", [2, 3])
async def test_news_are_heard_in_both_protocols(own_redis, protocol):
    server = own_redis()
    url = f"{server.url}?protocol={protocol}"
    here, elsewhere = (tier(url, max_staleness=60.0, settle=False) for _ in range(2))
    async with opened(here, elsewhere):
        connected = server.info("stats")["total_connections_received"]
        for _ in range(5):
            await here.set(*ALICE, ALLOW)
            await elsewhere.invalidate("alice")
            await until_gone(here, ALICE)
        opened_since = int(server.info("stats")["total_connections_received"]) - int(connected)
        assert opened_since <= 1 + 4, "the connections for revocations, and that of this question"


async def test_a_reader_that_may_not_listen_waits_for_its_confirmations(own_redis, monkeypatch):
    waits = []
    wait = Watch.wait
    monkeypatch.setattr(Watch, "wait", lambda *given: (waits.append(1), wait(*given)))
    server = own_redis()
    server.command("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "&*", "+@all", "-xread")
    url = server.url.replace("://", "://deaf:pw@")
    async with opened(tier(url, max_staleness=60.0)):
        await asyncio.sleep(0.5)
        assert len(waits) <= 5


async def test_own_revocations_are_not_applied_a_second_time(here):
    await here.invalidate("alice")
    await here.set(*ALICE, ALLOW)
    await here.confirm()
    assert await here.get(*ALICE) == ALLOW
    assert here.metrics.foreign_revocations == 0


async def test_caches_of_one_process_revoke_each_other(fresh_redis):
    caches = [tier(fresh_redis.url, command_timeout=10) for _ in range(2)]
    async with opened(*caches) as (one, other):
        await other.set(*ALICE, ALLOW)
        await one.invalidate("alice")
        await until_gone(other, ALICE)


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_revocation_that_is_not_awaited_reaches_other_processes(here, elsewhere, dropped):
    await here.set(*ALICE, ALLOW)
    revoking = elsewhere.invalidate("alice")
    if dropped:
        del revoking
    await until_gone(here, ALICE)


async def test_namespaces_share_no_revocations(here, fresh_redis):
    await here.set(*ALICE, ALLOW)
    async with opened(tier(fresh_redis.url, namespace="other")) as (other,):
        await other.set(*ALICE, ALLOW)
        await here.invalidate("alice")
        await other.confirm()
        assert await other.get(*ALICE) == ALLOW


# Decisions that take the place of others


async def test_a_different_decision_revokes_the_older_one_elsewhere(here, elsewhere):
    await here.set(*ALICE, ALLOW)
    await elsewhere.set(*ALICE, ALLOW)
    await elsewhere.set(*ALICE, DENY)
    await until_gone(here, ALICE)
    assert await elsewhere.get(*ALICE) == DENY


async def test_the_same_decision_revokes_nothing_elsewhere(here, elsewhere):
    await here.set(*ALICE, ALLOW)
    await elsewhere.set(*ALICE, ALLOW)
    await elsewhere.set(*ALICE, ALLOW)
    await elsewhere.set(*BOB, DENY)
    assert await elsewhere.get_or_load("carol", "read", "doc", bringing(DENY)) == DENY
    await elsewhere.invalidate("dave")
    await until(lambda: here.metrics.foreign_revocations == 1)
    assert await here.get(*ALICE) == ALLOW


async def test_a_decision_that_cannot_be_stored_revokes_the_older_one_elsewhere(here, elsewhere):
    await here.set(*ALICE, ALLOW)
    await elsewhere.set(*ALICE, ALLOW)
    assert await elsewhere.set(*ALICE, {"allow": False, "reason": "x" * 70_000}) is False
    await until_gone(here, ALICE)


async def test_a_refresh_with_another_decision_revokes_the_older_one_elsewhere(here, elsewhere):
    async def deny(*_):
        return DENY

    await here.set(*ALICE, ALLOW)
    await elsewhere.set(*ALICE, ALLOW, ttl_seconds=0.2)
    elsewhere.set_revalidate_callback(deny)
    await asyncio.sleep(0.15)
    assert await elsewhere.get(*ALICE, sensitivity="critical") == ALLOW
    await until_gone(here, ALICE)


# Evaluations that run


async def test_an_evaluation_that_a_revocation_elsewhere_overtakes_is_not_stored(here, elsewhere):
    loader = ControlledLoader()
    [task] = await begun(here, loader)
    await elsewhere.invalidate("alice")
    await until(lambda: here.metrics.foreign_revocations == 1)
    loader.bring(ALLOW)
    assert await task == ALLOW
    assert await here.get(*ALICE) is None


async def test_a_stamp_from_before_a_revocation_elsewhere_stores_nothing(here, elsewhere):
    stamp = here.stamp()
    await elsewhere.invalidate("alice")
    await until(lambda: here.metrics.foreign_revocations == 1)
    assert await here.set(*ALICE, ALLOW, stamp=stamp) is False
    assert await here.get(*ALICE) is None


# Servers


async def test_a_revocation_that_the_server_does_not_confirm_raises_and_is_in_effect_here(
    own_redis,
):
    server = own_redis()
    async with opened(tier(server.url, command_timeout=0.2)) as (cache,):
        await cache.set(*ALICE, ALLOW)
        server.kill()
        with pytest.raises(InvalidationError, match="in effect in this process"):
            await cache.invalidate("alice")
        assert await cache.get(*ALICE) is None


@pytest.mark.parametrize("servers", ["fresh_cluster", "fresh_sentinels"])
async def test_it_works_over_several_servers(servers, request):
    url = request.getfixturevalue(servers).url
    # The failovers of these servers are fast, to save time.
    trusting = (tier(url, trust_server=True), tier(url, trust_server=True))
    async with opened(*trusting) as (here, elsewhere):
        await here.set(*ALICE, ALLOW)
        await elsewhere.invalidate("alice")
        await until_gone(here, ALICE)


async def test_processes_revoke_each_other(fresh_redis, here):
    await here.set(*ALICE, ALLOW)
    code = """
        import asyncio, sys
        from sark_cache.backends.tiered import TieredPolicyCache

        async def main():
            async with TieredPolicyCache(sys.argv[1], command_timeout=10) as cache:
                await cache.invalidate("alice")

        asyncio.run(main())
    """
    assert await asyncio.to_thread(run, code, fresh_redis.url) == []
    await until_gone(here, ALICE)


async def test_a_delete_that_cannot_be_read_counts_once(here, caplog):
    assert await here.delete(*ALICE, {"at": object()}) is False
    assert here.metrics.errors == 1
    assert len(caplog.records) == 1
