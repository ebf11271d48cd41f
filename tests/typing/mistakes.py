"""Mistakes that a type checker must refuse. Checked by `nox -s typing`, never run.

Each line with an ignore comment is a mistake. mypy reports a `type: ignore` that ignores nothing,
and pyright such a `pyright: ignore`; pyright disregards `type: ignore` here. So both checkers must
find each mistake.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import sark_cache
from sark_cache import (
    AsyncCache,
    CacheCleanupTask,
    CacheMetrics,
    Decision,
    FeatureFlagManager,
    Loaded,
    NullPolicyCache,
    PolicyCache,
    PolicyCacheProtocol,
    RustPolicyCache,
    Stamp,
    create_policy_cache,
)
from sark_cache.fastapi import authorize, policy_cache_router
from sark_cache.metrics import LatencyHistogram

REQUEST = ("alice", "read", "doc")


def misspelt() -> None:
    sark_cache.RustPolicyCach()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    RustPolicyCache(maxsize=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RustPolicyCache(eviction="fifo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncCache(eviction="fifo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def given_the_wrong_thing(cache: RustPolicyCache, shared: PolicyCache) -> None:
    await cache.get(1, "read", "doc")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.get("alice", "read")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await cache.get(*REQUEST, ["mfa"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.get(*REQUEST, {1: "mfa"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    await cache.set(*REQUEST, True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.set(*REQUEST, {"allow": True}, None, "60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.set(*REQUEST, {}, None, None, None, ["tag"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await cache.set_batch([("alice", "read", "doc")])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await cache.get_batch([("alice", "read")])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await cache.invalidate(tags=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await cache.invalidate(user="alice")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await cache.invalidate_pattern(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await shared.get(1, "read", "doc")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def stamped_by_another(native: RustPolicyCache, shared: PolicyCache) -> None:
    await native.set(*REQUEST, {}, stamp=shared.stamp())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await shared.set(*REQUEST, {}, stamp=native.stamp())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await native.set(*REQUEST, {}, stamp=0.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    _ = native.stamp() < native.stamp()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnknownVariableType]


async def loaded_wrongly(cache: RustPolicyCache) -> None:
    def blocking() -> dict[str, bool]:
        return {"allow": True}

    async def asks(user_id: str) -> dict[str, bool]:
        return {"allow": bool(user_id)}

    async def brings_nothing() -> None:
        """A policy whose function forgot to return its decision."""

    await cache.get_or_load(*REQUEST, blocking)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.get_or_load(*REQUEST, asks)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.get_or_load(*REQUEST, brings_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.get_or_load(*REQUEST, brings_nothing())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cache.set_revalidate_callback(asks)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    authorize(asks, user="alice")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Loaded(True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def not_awaited(cache: RustPolicyCache, shared: PolicyCache) -> None:
    """Calls methods without awaiting them: they act, but errors are raised only when awaited."""
    cache.invalidate(user_id="alice")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    shared.invalidate(user_id="alice")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    create_policy_cache("alice").clear()  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    cache.get(*REQUEST)["allow"]  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    with cache:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


async def taken_for_a_decision(cache: RustPolicyCache) -> None:
    decision = await cache.get(*REQUEST)
    decision["allow"]  # type: ignore[index]  # pyright: ignore[reportOptionalSubscript]
    shared = await cache.get_decision(*REQUEST)
    _ = shared.allow  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    own: dict[str, Any] | None = shared  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del own


def changed(
    decision: Decision,
    loaded: Loaded,
    metrics: CacheMetrics,
    histogram: LatencyHistogram,
) -> None:
    decision["allow"] = True  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    del decision["allow"]  # type: ignore[attr-defined]  # pyright: ignore[reportIndexIssue]
    decision.allow = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    decision.update(allow=True)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    loaded.ttl_seconds = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    metrics.hits = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    histogram.counts[0] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


def made_wrongly() -> None:
    Decision()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Decision(allow=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Decision([("allow", True)])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Stamp(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    policy_cache_router(admin="secret")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def extended() -> None:
    class Decided(Decision):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        pass

    class Stamped(Stamp):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        pass

    class Both(RustPolicyCache, int):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        """A class with two base classes of different layouts, which Python refuses, too."""

    del Decided, Stamped, Both


def set_wrongly(cache: RustPolicyCache, flags: FeatureFlagManager) -> None:
    cache.enabled = "yes"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    cache.max_size = 10  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    cache.closed = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    cache.max_sise = 10  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    flags.set_rollout_pct("rust_cache", 0.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CacheCleanupTask(cache, interval="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CacheCleanupTask({})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def general(cache: AsyncCache) -> None:
    await cache.get(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.get(["a"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.set("key", {1, 2})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.set("key", b"bytes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    value = await cache.get("key")
    value["allow"]  # type: ignore[index, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue, reportOptionalSubscript]


class NoCache:
    """A cache that lacks nearly all methods."""

    async def size(self) -> int:
        return 0


def no_caches(callback: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    one: PolicyCacheProtocol = NoCache()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    other: PolicyCacheProtocol = callback  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    native: RustPolicyCache = NullPolicyCache()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    FeatureFlagManager("redis://localhost")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    del one, other, native
