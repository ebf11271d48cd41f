"""Services that share a server in separate namespaces, next to SARK's cache."""

import asyncio
import random

import pytest

from loaders import ALLOW, DENY, ControlledLoader, bringing
from loaders import REQUEST as ALICE
from sark_cache import PolicyCache
from sark_cache._core.patterns import Glob

BOB = ("bob", "read", "doc")
# Each could be mistaken for the beginning, the end or a part of another one's keys.
NAMESPACES = ["", "shop:", "shop:sark-cache:1:", "shop:sark-cache:1:p:u:a:r:", "sark-cache:1:"]
PATIENT = {"connect_timeout": 10, "command_timeout": 10}


@pytest.fixture(params=["fresh_redis", "fresh_cluster"])
async def services(request):
    """A cache for each namespace, on one server or cluster, each with the same two decisions."""
    url = request.getfixturevalue(request.param).url
    caches = [PolicyCache(url, namespace=namespace, **PATIENT) for namespace in NAMESPACES]
    for cache in caches:
        await cache.set_batch([(*ALICE, ALLOW), (*BOB, ALLOW)], tags=["role:admin"])
    yield caches
    for cache in caches:
        await cache.close()


async def served(cache):
    return await cache.get_batch([ALICE, BOB])


REVOCATIONS = {
    "a user": lambda cache: cache.invalidate(user_id="alice"),
    "a tag": lambda cache: cache.invalidate(tags=["role:admin"]),
    "a policy": lambda cache: cache.invalidate(policy=""),
    "a pattern": lambda cache: cache.invalidate_pattern("*"),
    "one decision": lambda cache: cache.delete(*ALICE),
    "one decision of a policy": lambda cache: cache.delete(*ALICE, policy=""),
    "everything": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("at", range(len(NAMESPACES)), ids=NAMESPACES)
@pytest.mark.parametrize("revoke", REVOCATIONS)
async def test_a_revocation_of_one_service_does_not_affect_the_others(services, revoke, at):
    mine = services[at]
    loaders = [ControlledLoader() for _ in services]
    loads = [
        asyncio.create_task(cache.get_or_load("alice", "write", "doc", loader, tags=["role:admin"]))
        for cache, loader in zip(services, loaders, strict=True)
    ]
    for loader in loaders:
        await loader.begun.wait()
    await REVOCATIONS[revoke](mine)
    for loader in loaders:
        loader.bring(ALLOW)
    await asyncio.gather(*loads)
    assert (await served(mine))[0] is None
    for other in services:
        if other is not mine:
            assert await served(other) == [ALLOW, ALLOW]
            assert await other.get("alice", "write", "doc") == ALLOW, "its load was not overtaken"
            assert await other.size() == 3


async def test_services_do_not_see_each_others_decisions(services):
    await services[1].set(*ALICE, DENY)
    assert [(await served(cache))[0] for cache in services] == [ALLOW, DENY, ALLOW, ALLOW, ALLOW]
    await services[0].set("carol", "read", "doc", ALLOW)
    for other in services[1:]:
        assert await other.get_or_load("carol", "read", "doc", bringing(DENY)) == DENY


async def test_two_processes_of_one_service_share_decisions(fresh_redis):
    async with (
        PolicyCache(fresh_redis.url, namespace="shop:") as one,
        PolicyCache.from_url(fresh_redis.url, namespace="shop:") as other,
    ):
        await one.set(*ALICE, ALLOW)
        assert await other.get(*ALICE) == ALLOW
        assert await other.invalidate(user_id="alice") == 1
        assert await one.get(*ALICE) is None


async def test_a_stamp_of_another_namespace_is_refused(services):
    with pytest.raises(ValueError, match="stamp was taken from another cache"):
        await services[0].set(*ALICE, ALLOW, stamp=services[1].stamp())


async def test_keys_belong_to_the_service_and_are_not_read_by_sark(fresh_redis):
    async with PolicyCache(fresh_redis.url, namespace="shop:") as cache:
        await cache.set("{alice}", "tool:read", "a/b*", ALLOW, policy="app:f{x}")
        await cache.set(*ALICE, ALLOW, {"ip": "::1"})
        await cache.delete(*BOB)
    keys = fresh_redis.command("KEYS", "*")
    assert "shop:sark-cache:1:app%3Af%7Bx%7D:%7Balice%7D:tool%3Aread:a/b%2A:none" in keys
    of_log = {f"{{shop:policy:decision}}.{name}" for name in ("log", "head", "readers")}
    of_decisions = set(keys) - of_log
    assert of_log <= set(keys)
    assert all(key.startswith("shop:sark-cache:1:") for key in of_decisions)
    assert not any("{" in key for key in of_decisions), "no part of a key names its slot"
    assert fresh_redis.command("KEYS", "policy:decision:*") == []


async def test_entries_of_sark_are_neither_served_nor_removed(fresh_redis):
    of_sark = "policy:decision:alice:read:doc:none"
    fresh_redis.command("SET", of_sark, '{"allow": true}')
    async with PolicyCache(fresh_redis.url) as cache:
        assert await cache.get(*ALICE) is None
        assert await cache.size() == 0
        await cache.invalidate(user_id="alice")
        await cache.clear()
    assert fresh_redis.command("GET", of_sark) == '{"allow": true}'


@pytest.mark.parametrize("wrong", ["{shop}", "shop*", "a b", "é", "shop\n", "x" * 65, "a%"])
def test_a_namespace_is_short_and_of_safe_characters(wrong):
    with pytest.raises(ValueError, match="namespace must be at most 64 letters, digits and"):
        PolicyCache("redis://localhost", namespace=wrong)


def test_a_namespace_is_a_str():
    with pytest.raises(TypeError, match="namespace must be a str, not NoneType"):
        PolicyCache("redis://localhost", namespace=None)


def test_patterns_match_as_the_server_matches(fresh_redis):
    """A pattern is compared here and must match the same keys as in KEYS and SCAN."""
    chance = random.Random(7)
    pairs = [
        ("".join(chance.choices("ab*?[]^-\\", k=6)), "".join(chance.choices("ab]^-\\", k=4)))
        for _ in range(3_000)
    ]
    commands = [
        command
        for pattern, text in pairs
        for command in (("SET", text, 1), ("KEYS", pattern), ("DEL", text))
    ]
    found = fresh_redis.commands(*commands)[1::3]
    assert any(found)
    for (pattern, text), keys in zip(pairs, found, strict=True):
        assert Glob(pattern).matches(text.encode()) == bool(keys), (pattern, text)
