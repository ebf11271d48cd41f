"""Uses of the helpers for tests of services, for type checkers."""

from collections.abc import Mapping
from typing import Any, assert_type

from sark_cache import NullPolicyCache, PolicyCacheProtocol
from sark_cache.testing import Call, RecordingPolicyCache, Request, allow_all, deny_all


async def recorded(cache: RecordingPolicyCache) -> None:
    """Uses a recording cache, which has the interface of every other."""
    interfaces: list[PolicyCacheProtocol] = [cache, NullPolicyCache()]
    assert interfaces
    with allow_all(), deny_all("closed on Sundays"):
        await cache.get("alice", "read", "doc", policy="p")
    assert_type(cache.calls, list[Call])
    assert_type(cache.calls[0].method, str)
    assert_type(cache.calls[0].arguments, Mapping[str, Any])
    assert_type(cache.requests, list[Request])
    assert_type(cache.evaluated, list[Request])
    assert_type(cache.calls_of("get"), list[Mapping[str, Any]])
    cache.forget()
