"""Requests and decisions above a limit are misses and are not stored, by every method."""

import asyncio
import itertools
import logging
import time

import pytest

from sark_cache import Loaded
from sark_cache._core.limits import MAX_REVOKED_TAGS

ALLOW, DENY = {"allow": True}, {"allow": False}
ALICE = ("alice", "read", "doc")
FIELD, NAME, TAGS, ENTRY = 8 * 1024, 256, 64, 64 * 1024


def request(field, text):
    fields = list(ALICE)
    fields[field] = text
    return tuple(fields)


async def load():
    return ALLOW


def endless():
    return (f"tag-{i}" for i in itertools.count())


# Fields and policies

LONGEST = {"ascii": "x" * FIELD, "two bytes": "é" * (FIELD // 2), "four": "𝒳" * (FIELD // 4)}


@pytest.mark.parametrize("field", range(3))
@pytest.mark.parametrize("longest", LONGEST.values(), ids=LONGEST)
async def test_a_field_of_8_kib_is_stored(cache, field, longest):
    longest = request(field, longest)
    assert await cache.set(*longest, ALLOW) is True
    assert await cache.get(*longest) == ALLOW
    assert await cache.delete(*longest) is True


@pytest.mark.parametrize("field", range(3))
@pytest.mark.parametrize(
    "beyond", [*(text + "x" for text in LONGEST.values()), "x" * 1_000_000], ids=len
)
async def test_nothing_is_stored_under_a_longer_field(cache, field, beyond):
    asked = request(field, beyond)
    assert await cache.get(*asked) is None
    assert await cache.get_decision(*asked) is None
    assert await cache.get_batch([asked, ALICE]) == [None, None]
    assert await cache.set(*asked, ALLOW) is False
    assert await cache.set_batch([(*asked, ALLOW), (*ALICE, ALLOW)]) == 1
    assert await cache.get_or_load(*asked, load) == ALLOW
    assert await cache.get(*asked) is None
    assert await cache.size() == 1
    assert cache.metrics.errors >= 7


@pytest.mark.parametrize("field", range(3))
async def test_a_revocation_with_a_longer_field_revokes_nothing(cache, field):
    await cache.set(*ALICE, ALLOW)
    beyond = "x" * (FIELD + 1)
    name = ("user_id", "action", "resource")[field]
    assert await cache.invalidate(**{name: beyond}) == 0
    assert await cache.invalidate(policy="x" * (NAME + 1)) == 0
    assert await cache.delete(*request(field, beyond)) is False
    assert await cache.delete(*ALICE, policy="x" * (NAME + 1)) is False
    assert await cache.get(*ALICE) == ALLOW


async def test_a_policy_has_at_most_256_bytes(cache):
    longest, beyond = "é" * (NAME // 2), "é" * (NAME // 2) + "x"
    assert await cache.set(*ALICE, ALLOW, policy=longest) is True
    assert await cache.get(*ALICE, policy=longest) == ALLOW
    assert await cache.set(*ALICE, ALLOW, policy=beyond) is False
    assert await cache.get(*ALICE, policy=beyond) is None
    assert await cache.get_batch([ALICE], policy=beyond) == [None]
    assert await cache.get_or_load(*ALICE, load, policy=beyond) == ALLOW
    assert await cache.size() == 1


# Tags

MOST = [f"{i:03}{'x' * (NAME - 3)}" for i in range(TAGS)]
TOO_MANY = {
    "one too many": lambda: [f"tag-{i}" for i in range(TAGS + 1)],
    "a long one": lambda: ["a", "x" * (NAME + 1)],
    "one long in bytes": lambda: ["é" * (NAME // 2) + "x"],
    "one very long": lambda: ["x" * 1_000_000],
    "no end of them": endless,
    "far too many": lambda: {str(i) for i in range(200_000)},
}


async def test_64_tags_of_256_bytes_are_stored_and_each_revokes(cache):
    for tag in (MOST[0], MOST[31], MOST[-1]):
        assert await cache.set(*ALICE, ALLOW, tags=MOST) is True
        assert await cache.invalidate(tags=[tag]) == 1


@pytest.mark.parametrize("tags", TOO_MANY.values(), ids=TOO_MANY)
async def test_with_more_tags_a_decision_is_not_stored_and_the_older_one_is_removed(cache, tags):
    async with asyncio.timeout(20):
        for store in (
            lambda: cache.set(*ALICE, DENY, tags=tags()),
            lambda: cache.set_batch([(*ALICE, DENY)], tags=tags()),
            lambda: cache.preload_cache([(*ALICE, DENY)], tags=tags()),
        ):
            assert await cache.set(*ALICE, ALLOW) is True
            errors = cache.metrics.errors
            assert not await store()
            assert cache.metrics.errors == errors + 1
            assert await cache.get(*ALICE) is None


@pytest.mark.parametrize("tags", TOO_MANY.values(), ids=TOO_MANY)
async def test_with_more_tags_a_decision_is_evaluated_and_not_stored(cache, tags):
    async def late():
        return Loaded(ALLOW, tags=tags())

    async with asyncio.timeout(20):
        assert await cache.get_or_load(*ALICE, load, tags=tags()) == ALLOW
        assert await cache.get(*ALICE) is None
        assert cache.metrics.errors >= 1
        errors = cache.metrics.errors
        assert await cache.get_or_load(*ALICE, late) == ALLOW
        assert await cache.get(*ALICE) is None
        assert cache.metrics.errors > errors


async def test_tags_of_the_request_and_of_the_loader_are_counted_together(cache):
    async def late():
        return Loaded(ALLOW, tags=[f"late-{i}" for i in range(TAGS // 2)])

    half = [f"known-{i}" for i in range(TAGS // 2)]

    async def the_same():
        return Loaded(ALLOW, tags=[f"tag-{i}" for i in range(TAGS)])

    await cache.get_or_load(*ALICE, the_same, tags=[f"tag-{i}" for i in range(TAGS)])
    assert await cache.get(*ALICE) == ALLOW
    await cache.delete(*ALICE)
    await cache.get_or_load(*ALICE, late, tags=half)
    assert await cache.get(*ALICE) == ALLOW
    await cache.delete(*ALICE)
    assert await cache.get_or_load(*ALICE, late, tags=[*half, "one more"]) == ALLOW
    assert await cache.get(*ALICE) is None
    assert cache.metrics.errors == 1


async def test_the_tags_of_all_waiters_together_are_limited(cache):
    may_end = asyncio.Event()

    async def late():
        await may_end.wait()
        return ALLOW

    def ask(i):
        tags = [f"{i}-{j}" for j in range(TAGS // 2)]
        return asyncio.create_task(cache.get_or_load(*ALICE, late, tags=tags))

    asked = [ask(i) for i in range(200)]
    await asyncio.sleep(0.05)
    may_end.set()
    began = time.perf_counter()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*asked) == [ALLOW] * len(asked)
    assert time.perf_counter() - began < 10
    await cache.invalidate(tags=[f"{i}-0" for i in range(200)])
    assert await cache.get(*ALICE) is None


async def test_tags_above_the_limit_revoke_nothing(cache):
    await cache.set(*ALICE, ALLOW, tags=["a"])
    assert await cache.invalidate(tags=["x" * (NAME + 1)]) == 0
    assert await cache.get(*ALICE) == ALLOW
    assert await cache.invalidate(tags=["x" * (NAME + 1), "a"]) == 1


async def test_a_revocation_can_name_more_tags_than_a_decision_has(cache):
    await cache.set(*ALICE, ALLOW, tags=["tag-999"])
    assert await cache.invalidate(tags=(f"tag-{i}" for i in range(1_000))) == 1


async def test_a_revocation_can_name_as_many_tags_as_the_limit_and_no_more(cache):
    most = [f"tag-{i}" for i in range(MAX_REVOKED_TAGS)]
    await cache.set(*ALICE, ALLOW, tags=most[-1:])
    assert await cache.invalidate(tags=most) == 1
    with pytest.raises(ValueError, match="tags must be at most 10,000 in one revocation"):
        await cache.invalidate(tags=[*most, "one more"])


async def test_a_revocation_with_endless_tags_ends(cache):
    await cache.set(*ALICE, ALLOW)
    async with asyncio.timeout(20):
        with pytest.raises(ValueError, match="tags must be at most 10,000 in one revocation"):
            await cache.invalidate(tags=endless())


@pytest.mark.parametrize("empty", [list, tuple, set, lambda: iter(())])
async def test_empty_tags_are_an_error_and_revoke_nothing(cache, empty):
    await cache.set(*ALICE, ALLOW)
    for named in ({}, {"user_id": "alice"}):
        with pytest.raises(ValueError, match="tags must name at least one tag"):
            await cache.invalidate(**named, tags=empty())
    assert await cache.get(*ALICE) == ALLOW


async def test_revocations_of_everything_warn_once_in_a_burst(cache, caplog):
    with caplog.at_level(logging.WARNING, logger="sark_cache"):
        for revoke in (
            cache.invalidate,
            lambda: cache.invalidate(None, None, None, tags=None, policy=None),
        ):
            await cache.set(*ALICE, ALLOW)
            assert await revoke() == 1
        assert await cache.clear() is True
    (warning,) = [record for record in caplog.records if "clear()" in record.getMessage()]
    assert warning.levelno == logging.WARNING


# Key and value together

CONTEXTS = {
    "a long value": {"x": "y" * ENTRY},
    "a long name": {"y" * ENTRY: 1},
    "long in bytes": {"x": "é" * (ENTRY // 2)},
    "a very long value": {"x": "y" * 10_000_000},
    "many values": {"x": list(range(ENTRY))},
    "many names": {str(i): i for i in range(ENTRY)},
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
async def test_the_context_counts_towards_the_limit(cache, context):
    assert await cache.get(*ALICE, context) is None
    assert await cache.get_batch([(*ALICE, context)]) == [None]
    assert await cache.set(*ALICE, ALLOW, context) is False
    assert await cache.get_or_load(*ALICE, load, context) == ALLOW
    assert await cache.delete(*ALICE, context) is False
    assert await cache.size() == 0
    assert cache.metrics.errors >= 4


async def test_key_and_decision_count_together(cache):
    context = {"x": "y" * (ENTRY // 2)}
    assert await cache.set(*ALICE, {"x": "y" * (ENTRY // 2 - 2_000)}, context) is True
    assert await cache.set(*ALICE, {"x": "y" * (ENTRY // 2)}, context) is False
    assert await cache.get(*ALICE, context) is None


async def test_too_large_entries_are_logged_once_in_a_burst(cache, caplog):
    with caplog.at_level(logging.WARNING, logger="sark_cache"):
        for _ in range(100):
            await cache.set("secret" * FIELD, "read", "doc", ALLOW)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "user_id is longer than 8192 bytes" in messages[0]
    assert "secret" not in messages[0]
