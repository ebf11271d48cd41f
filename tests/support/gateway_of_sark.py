"""A gateway that calls its caches as SARK's does, for the guide to migrating from it.

Its calls are those of SARK, unchanged. It is never imported as it is: the test replaces the imports
as the guide says, and runs the result.
"""

import asyncio

from sark.services.feature_flags import FeatureFlagManager, get_feature_flag_manager
from sark.services.policy.cache import PolicyCache, get_policy_cache
from sark.services.policy.cache_cleanup import start_cache_cleanup, stop_cache_cleanup
from sark.services.policy.factory import create_policy_cache
from sark.services.policy.rust_cache import RustPolicyCache, get_rust_policy_cache


class PolicyClient:
    """A client of the policy engine and its cache; SARK makes one for each request."""

    def __init__(self, engine, cache=None, cache_enabled=True):  # noqa: FBT002 - as there
        self.engine = engine
        self.cache = cache or get_policy_cache(enabled=cache_enabled)
        if hasattr(self.cache, "set_revalidate_callback"):
            self.cache.set_revalidate_callback(self.revalidate)

    async def evaluate_policy(self, user, action, tool, context, *, use_cache=True):
        asked = {
            "user_id": user["id"],
            "action": action,
            "resource": f"tool:{tool['name']}",
            "context": context,
        }
        sensitivity = tool.get("sensitivity_level", "default")
        if use_cache and self.cache.enabled:
            cached = await self.cache.get(**asked, sensitivity=sensitivity)
            if cached:
                return cached
        decision = await self.engine(**asked)
        if use_cache and self.cache.enabled:
            ttl_seconds = self._ttl(sensitivity)
            await self.cache.set(**asked, decision=decision, ttl_seconds=ttl_seconds)
        self.cache.record_opa_latency(1.5)
        return decision

    async def evaluate_policy_batch(self, user, action, tools, context):
        requests = [(user["id"], action, f"tool:{tool['name']}", context) for tool in tools]
        cached = await self.cache.get_batch(requests)
        missing = [at for at, decision in enumerate(cached) if decision is None]
        fresh = await asyncio.gather(*(self.engine(*requests[at]) for at in missing))
        entries = [
            (*requests[at][:3], decision, requests[at][3], 60)
            for at, decision in zip(missing, fresh, strict=True)
        ]
        await self.cache.set_batch(entries)
        found = iter(fresh)
        return [next(found) if decision is None else decision for decision in cached]

    async def revalidate(self, user_id, action, resource, context=None):
        try:
            return await self.engine(user_id, action, resource, context)
        except ConnectionError:
            return None

    async def invalidate_cache(self, user_id=None, action=None, resource=None):
        return await self.cache.invalidate(user_id=user_id, action=action, resource=resource)

    def get_cache_metrics(self):
        return self.cache.get_metrics()

    async def get_cache_size(self):
        return await self.cache.get_cache_size()

    async def health_check(self):
        return await self.cache.health_check()

    async def close(self):
        await self.cache.close()

    def _ttl(self, sensitivity):
        if hasattr(self.cache, "use_optimized_ttl") and self.cache.use_optimized_ttl:
            return self.cache.OPTIMIZED_TTL.get(sensitivity, self.cache.OPTIMIZED_TTL["default"])
        return 120


async def evaluate(engine, input_data):
    """Sends one request through the factory, like SARK's `evaluate_opa_policy`."""
    user_id = input_data["user"]["id"]
    cache = create_policy_cache(user_id)
    resource = input_data["resource"]["tool"]
    try:
        cached = await cache.get(
            user_id=user_id, action=input_data["action"], resource=resource, context=input_data
        )
        if cached:
            return cached
    except Exception:  # noqa: BLE001, S110 - as there
        pass
    decision = await engine(user_id, input_data["action"], resource, input_data)
    await cache.set(
        user_id=user_id,
        action=input_data["action"],
        resource=resource,
        decision=decision,
        context=input_data,
    )
    return decision


async def answer_request(engine, *asked):
    """The route of SARK that evaluates, with a client for each request."""
    client = PolicyClient(engine)
    try:
        return await client.evaluate_policy(*asked)
    finally:
        await client.close()


async def readiness(engine):
    """The health probe of SARK, with a client for each request."""
    client = PolicyClient(engine)
    try:
        return await client.health_check()
    finally:
        await client.close()


async def start(cache):
    """Starts the app with a warm cache and the cleanup."""
    await cache.preload_cache([("user-1", "tool:invoke", "tool:search", {"allow": True}, None)])
    return await start_cache_cleanup(cache, interval=60, enabled=True)


async def stop():
    """Stops the app."""
    await stop_cache_cleanup()


def flags(redis_client=None):
    """Returns the flags that SARK's admin routes show."""
    manager = FeatureFlagManager(redis_client)
    manager.set_rollout_pct("rust_cache", 25)
    manager.rollback("rust_opa")
    return manager, get_feature_flag_manager()


def caches(redis_client):
    """Returns a cache for each way in which SARK makes one."""
    return {
        "redis": PolicyCache(redis_client, 300, True, True, True),
        "native": RustPolicyCache(10_000, 300, True, True),
        "native of the process": get_rust_policy_cache(max_size=None, ttl_seconds=None),
    }
