"""A decision's TTL is the one given, else the cache's; a sensitivity can only shorten it."""

import asyncio
import logging

import pytest

from sark_cache import Loaded

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")
BRIEF = 0.3


@pytest.fixture
async def new_brief(new_cache):
    """Makes caches whose critical decisions have a short TTL."""

    class Brief(new_cache.kind):
        OPTIMIZED_TTL = {"critical": BRIEF, "public": 60}  # noqa: RUF012

    async def new(**settings):
        return await new_cache(kind=Brief, **settings)

    return new


async def survivors(cache, users):
    """Returns the users whose decision is served after short-lived ones have expired."""
    await asyncio.sleep(BRIEF + 0.05)
    found = await cache.get_batch([(user, "read", "doc") for user in users])
    return {user for user, decision in zip(users, found, strict=True) if decision is not None}


STORED = {
    "nothing": ({}, True),
    "long": ({"ttl_seconds": 60}, True),
    "brief": ({"ttl_seconds": BRIEF}, False),
    "critical": ({"sensitivity": "critical"}, False),
    "critical and long": ({"sensitivity": "critical", "ttl_seconds": 60}, False),
    "public": ({"sensitivity": "public"}, True),
    "public and brief": ({"sensitivity": "public", "ttl_seconds": BRIEF}, False),
    "unknown": ({"sensitivity": "unheard of"}, True),
    "unknown and brief": ({"sensitivity": "unheard of", "ttl_seconds": BRIEF}, False),
}
EXPECTED = {name for name, (_, lives) in STORED.items() if lives}


async def test_a_sensitivity_shortens_the_given_ttl_and_the_ttl_of_the_cache(new_brief):
    cache = await new_brief(ttl_seconds=60)
    for name, (arguments, _) in STORED.items():
        assert await cache.set(name, "read", "doc", ALLOW, **arguments) is True
    assert await survivors(cache, list(STORED)) == EXPECTED


async def test_it_shortens_the_ttl_of_a_loaded_decision(new_brief):
    cache = await new_brief(ttl_seconds=60)

    async def load():
        return ALLOW

    for name, (arguments, _) in STORED.items():
        await cache.get_or_load(name, "read", "doc", load, **arguments)
    assert await survivors(cache, list(STORED)) == EXPECTED


async def test_it_shortens_the_ttl_that_the_loader_returns(new_brief):
    cache = await new_brief(ttl_seconds=60)

    for name, (arguments, _) in STORED.items():
        late = dict(arguments)
        ttl_seconds = late.pop("ttl_seconds", None)

        async def load(ttl_seconds=ttl_seconds):
            return Loaded(ALLOW, ttl_seconds=ttl_seconds)

        await cache.get_or_load(name, "read", "doc", load, **late)
    assert await survivors(cache, list(STORED)) == EXPECTED


async def test_the_ttl_of_the_loader_takes_precedence_over_the_ttl_of_the_caller(new_brief):
    cache = await new_brief(ttl_seconds=60)
    for name, given, of_loader in (
        ("long", BRIEF, 60),
        ("short", 60, BRIEF),
        ("none", BRIEF, None),
    ):

        async def load(of_loader=of_loader):
            return Loaded(ALLOW, ttl_seconds=of_loader)

        await cache.get_or_load(name, "read", "doc", load, ttl_seconds=given)
    assert await survivors(cache, ["long", "short", "none"]) == {"long"}


async def test_it_never_lengthens_the_ttl_of_the_cache(new_brief):
    cache = await new_brief(ttl_seconds=BRIEF)
    for sensitivity in ("critical", "public", "unheard of", None):
        await cache.set(str(sensitivity), "read", "doc", ALLOW, sensitivity=sensitivity)
    assert await survivors(cache, ["critical", "public", "unheard of", "None"]) == set()


async def test_it_has_no_effect_unless_optimized_ttls_are_enabled(new_brief):
    cache = await new_brief(ttl_seconds=60, use_optimized_ttl=False)
    await cache.set(*ALICE, ALLOW, sensitivity="critical")
    assert await survivors(cache, ["alice"]) == {"alice"}


async def test_a_refresh_does_not_lengthen_the_ttl(new_cache):
    cache = await new_cache(ttl_seconds=60)
    refreshed = asyncio.Event()

    async def evaluate(*_):
        refreshed.set()
        return {"allow": True, "again": True}

    cache.set_revalidate_callback(evaluate)
    await cache.set(*ALICE, ALLOW, ttl_seconds=2)
    await asyncio.sleep(1.6)
    assert await cache.get(*ALICE, None, "critical") == ALLOW
    async with asyncio.timeout(5):
        await refreshed.wait()
        while await cache.get(*ALICE) == ALLOW:
            await asyncio.sleep(0.005)
    assert await cache.get(*ALICE) is not None
    await asyncio.sleep(2.05)
    assert await cache.get(*ALICE) is None


async def test_an_unknown_sensitivity_warns_once(new_cache, caplog):
    cache = await new_cache()
    name = f"unheard of by {cache.backend} {id(cache)}"

    async def load():
        return ALLOW

    with caplog.at_level(logging.WARNING, logger="sark_cache"):
        for user in ("alice", "bob"):
            assert await cache.set(user, "read", "doc", ALLOW, sensitivity=name) is True
            await cache.get_or_load(user, "write", "doc", load, sensitivity=name)
    warnings = [record.getMessage() for record in caplog.records if name in record.getMessage()]
    assert len(warnings) == 1
    assert "critical" in warnings[0]
    assert cache.metrics.errors == 0


async def test_an_unknown_sensitivity_of_a_hit_warns_once(new_cache, caplog):
    cache = await new_cache()
    name = f"misspelt for {cache.backend} {id(cache)}"
    await cache.set(*ALICE, ALLOW)
    with caplog.at_level(logging.WARNING, logger="sark_cache"):
        for _ in range(2):
            assert await cache.get(*ALICE, None, name) == ALLOW
    warnings = [record for record in caplog.records if name in record.getMessage()]
    assert len(warnings) == 1
    assert (cache.metrics.hits, cache.metrics.errors) == (2, 0)


async def test_a_subclass_chooses_the_sensitivities_whose_entries_are_refreshed(new_cache):
    class Chosen(new_cache.kind):
        REFRESHED_SENSITIVITIES = frozenset({"public"})
        STALE_THRESHOLD_RATIO = 2.0  # every entry is stale

    cache = await new_cache(kind=Chosen, ttl_seconds=60)
    asked = asyncio.Queue()

    async def evaluate(user_id, action, resource, context):
        await asked.put((user_id, action, resource, context))
        return ALLOW

    cache.set_revalidate_callback(evaluate)
    for sensitivity in ("critical", "public"):
        await cache.set(sensitivity, "read", "doc", ALLOW)
        assert await cache.get(sensitivity, "read", "doc", None, sensitivity) == ALLOW
    async with asyncio.timeout(5):
        assert await asked.get() == ("public", "read", "doc", None)
    assert (cache.metrics.hits, cache.metrics.stale_hits) == (1, 1)
    assert asked.empty()
