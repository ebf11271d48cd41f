"""Helpers for tests of services: caches that record requests, and replaced evaluations."""

import asyncio
import sys
from unittest.mock import MagicMock, create_autospec

import pytest

from interpreters import run
from loaders import bringing, never
from sark_cache import (
    AsyncCache,
    Loaded,
    NullPolicyCache,
    PolicyCacheProtocol,
    RustPolicyCache,
    close_policy_caches,
    get_rust_policy_cache,
)
from sark_cache.testing import Call, RecordingPolicyCache, allow_all, deny_all

ALLOW, DENY = {"allow": True}, {"allow": False}
ALICE = ("alice", "read", "doc")

pytest_plugins = ["pytester"]


@pytest.fixture
def recording():
    return RecordingPolicyCache(max_size=10)


async def test_the_requests_of_a_batch_are_recorded_with_those_that_were_evaluated(recording):
    async def load(requests):
        return [ALLOW] * len(requests)

    await recording.set("alice", "read", "doc-0", ALLOW)
    names = ["doc-0", "doc-1", "doc-2"]
    assert await recording.filter_allowed("alice", "read", names, load) == names
    [asked] = recording.calls_of("get_or_load_many")
    assert asked["requests"] == [("alice", "read", name, None) for name in names]
    assert recording.evaluated == [("alice", "read", name, None) for name in names[1:]]
    assert [call.method for call in recording.calls] == ["set", "get_or_load_many"]


async def test_every_evaluation_of_a_batch_is_replaced():
    async def load(requests):
        pytest.fail("this loader must not run")

    cache = RustPolicyCache()
    with deny_all():
        assert await cache.get_or_load_many([ALICE, ("bob", "read", "doc")], load) == [DENY] * 2
    assert await cache.size() == 0


async def test_it_is_a_real_cache(recording):
    assert isinstance(recording, PolicyCacheProtocol)
    assert isinstance(recording, RustPolicyCache)
    assert recording.max_size == 10
    assert await recording.set(*ALICE, ALLOW, tags=(tag for tag in ["t"])) is True
    assert await recording.get(*ALICE) == ALLOW
    assert await recording.get_or_load(*ALICE, never) == ALLOW
    assert await recording.get_batch(iter([ALICE])) == [ALLOW]
    assert await recording.invalidate(tags=iter(["t"])) == 1
    assert await recording.get(*ALICE) is None
    assert recording.metrics.hits == 3
    assert asyncio.iscoroutinefunction(recording.invalidate)


async def test_it_records_requests_and_evaluations(recording):
    context = {"ip": "::1"}
    await recording.get(*ALICE, context)
    await recording.get_or_load(*ALICE, bringing(ALLOW), context, policy="p")
    await recording.get_or_load(*ALICE, never, context, policy="p")
    await recording.preload_cache([(*ALICE, DENY)])
    await recording.clear_all()
    context["ip"] = "changed"
    assert recording.requests == [(*ALICE, {"ip": "::1"})] * 3
    assert recording.evaluated == [(*ALICE, {"ip": "changed"})]
    assert [call.method for call in recording.calls] == [
        *("get", "get_or_load", "get_or_load", "preload_cache", "clear_all")
    ]
    named = dict(zip(("user_id", "action", "resource"), ALICE, strict=True))
    assert recording.calls[0] == Call("get", {**named, "context": {"ip": "::1"}})
    assert recording.calls_of("get_or_load")[0]["policy"] == "p"
    assert recording.calls_of("preload_cache") == [{"preload_data": [(*ALICE, DENY)]}]
    recording.forget()
    assert recording.calls == recording.evaluated == []


async def test_wrong_arguments_are_errors_as_elsewhere(recording):
    with pytest.raises(TypeError, match="user_id must be a str"):
        await recording.get(1, "read", "doc")
    with pytest.raises(TypeError, match="loader must be"):
        await recording.get_or_load(*ALICE, None)
    with pytest.raises(TypeError):
        await recording.get("alice")


async def test_every_evaluation_is_replaced(cache):
    for kind in (cache, NullPolicyCache()):
        with allow_all():
            assert await kind.get_or_load("bob", "read", "doc", bringing(DENY)) == ALLOW
            with deny_all("closed on Sundays"):
                decision = await kind.get_or_load("bob", "read", "doc", never)
                assert decision == {"allow": False, "reason": "closed on Sundays"}
            assert await kind.get_or_load("bob", "read", "doc", never) == ALLOW
        with deny_all():
            assert await kind.get_or_load("bob", "read", "doc", never) == DENY
        assert await kind.get_or_load("bob", "read", "doc", bringing(Loaded(DENY))) == DENY


async def test_values_of_the_general_cache_are_not_replaced():
    general = AsyncCache()
    with allow_all():
        assert await general.get_or_load("key", bringing(7)) == 7


async def test_entries_of_the_process_caches_are_set_aside():
    await get_rust_policy_cache().set(*ALICE, DENY)
    with allow_all():
        assert await get_rust_policy_cache().get_or_load(*ALICE, never) == ALLOW
    assert await get_rust_policy_cache().get(*ALICE) == DENY
    await close_policy_caches()


async def test_mocks_of_caches_return_awaitables():
    for mock in (MagicMock(spec=RustPolicyCache), create_autospec(RustPolicyCache, instance=True)):
        mock.invalidate.return_value = 3
        assert await mock.invalidate(user_id="alice") == 3
        mock.get_or_load.return_value = ALLOW
        assert await mock.get_or_load(*ALICE, never) == ALLOW


FIXTURES = """
import pytest
from sark_cache import create_policy_cache, get_policy_cache, get_rust_policy_cache
from sark_cache import SelectedPolicyCache, close_policy_caches
from sark_cache.testing import allow_all

ALICE = ("alice", "read", "doc")

async def load():
    return {"allow": False}

@pytest.mark.asyncio
async def test_it_replaces_all_caches(policy_cache):
    for cache in (create_policy_cache("alice"), get_policy_cache(), get_rust_policy_cache()):
        assert cache is policy_cache
    await SelectedPolicyCache().get(*ALICE)
    assert policy_cache.requests == [(*ALICE, None)]
    await policy_cache.set(*ALICE, {"allow": False})
    await policy_cache.close()
    await close_policy_caches()
    with allow_all():
        assert await SelectedPolicyCache().get_or_load(*ALICE, load) == {"allow": False}, "a hit"

@pytest.mark.asyncio
async def test_it_is_empty_at_the_start(policy_cache):
    assert await policy_cache.size() == 0
    assert policy_cache.calls == []

@pytest.mark.asyncio
async def test_without_a_cache_every_request_evaluates(no_policy_cache):
    for _ in range(2):
        assert await create_policy_cache("alice").get_or_load(*ALICE, load) == {"allow": False}
    assert no_policy_cache.metrics.loads == 2
    await no_policy_cache.close()
    assert await no_policy_cache.health_check() is True
"""


def test_the_fixtures_replace_the_caches_of_the_process(pytester):
    pytester.makeconftest('pytest_plugins = ["sark_cache.testing"]')
    pytester.makepyfile(FIXTURES)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)


def test_without_pytest_everything_except_the_fixtures_works():
    assert run(
        """
        import sys
        sys.modules["pytest"] = None
        from sark_cache import testing
        print(hasattr(testing, "policy_cache"), "fastapi" in sys.modules)
        testing.RecordingPolicyCache()
        """
    ) == ["False False"]
    assert "pytest" in sys.modules
