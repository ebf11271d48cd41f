"""The workload of profile-guided builds, which `maturin build --pgo` runs.

The operations in about the proportions of a service: mostly hits, some misses, loads and stores,
and a few revocations. It needs only the package. A build with a profile answers a hit in three
quarters of the time, because the compiler inlines the whole hit path into one function.
"""

import asyncio
import random
from typing import Any

from sark_cache import AsyncCache, RustPolicyCache

ROUNDS = 150
CONTEXTS: list[dict[str, Any] | None] = [
    None,
    None,
    {"ip": "10.0.0.1", "mfa": True, "hour": 12},
    {"roles": ["analyst", "reader"], "device": {"managed": True}, "risk": 0.25},
    {f"field_{number}": number for number in range(20)},
]
DECISIONS: list[dict[str, Any]] = [
    {"allow": True, "reason": "granted by role analyst", "policy": "tools", "ttl": 60},
    {"allow": False, "reason": "größere Rechte nötig"},
    {"allow": True, "obligations": ["audit", {"mask": ["ssn"]}], "score": 0.5, "owner": None},
    {"allow": True, **{f"detail_{number}": f"because of rule {number}" for number in range(46)}},
]


async def load() -> dict[str, Any]:
    """Stands for the policy engine."""
    return DECISIONS[0]


async def serve(cache: RustPolicyCache, draw: random.Random) -> None:
    """Some hundred requests."""
    for _ in range(100):
        user, resource = f"user{draw.randrange(30)}@example.com", f"server:jira/{draw.randrange(9)}"
        request = (user, "tool:invoke", resource, draw.choice(CONTEXTS))
        if await cache.get(*request) is None:
            await cache.set(*request[:3], draw.choice(DECISIONS), request[3])
        for _ in range(20):
            await cache.get(*request)
            await cache.get_decision(*request)
        await cache.get_or_load(*request[:3], load, request[3], tags=["bundle:1"])
        await cache.get(f"nobody{draw.random()}", *request[1:])
        await cache.set(f"once{draw.random()}", *request[1:3], {"allow": True, "id": draw.random()})
    await cache.get_batch([(f"user{number}", "read", "doc", None) for number in range(100)])
    await cache.set_batch([(f"user{number}", "read", "doc", DECISIONS[0]) for number in range(20)])
    await cache.invalidate(user_id=f"user{draw.randrange(30)}@example.com")
    await cache.delete("user1", "read", "doc")


async def train() -> None:
    """Serves from caches of all kinds, none of them large enough for all that is stored."""
    draw = random.Random(1)  # noqa: S311 - no secret
    caches = [RustPolicyCache(max_size=2_000), RustPolicyCache(1_000, eviction="tiny_lfu")]
    general = AsyncCache(1_000)
    for turn in range(ROUNDS):
        for cache in caches:
            await serve(cache, draw)
        for number in range(100):
            await general.set(("key", number, turn), DECISIONS[0])
            await general.get(("key", number, turn))
            await general.get(f"key{number}")


asyncio.run(train())
