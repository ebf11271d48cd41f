"""Every backend in turn: what these tests say holds for each of them, word for word."""

import contextlib

import pytest
import valkey.asyncio

from sark_cache import RustPolicyCache
from sark_cache.redis import PolicyCache

# On a busy machine a command may take long; how long one may take is what tests/faults are about.
PATIENT = {"connect_timeout": 10, "command_timeout": 10}


@pytest.fixture(params=["native", "redis", "valkey", "cluster", "sentinel"])
async def new_cache(request):
    """Makes caches on one backend, which is empty at first."""
    if request.param == "native":
        kind, servers = RustPolicyCache, ()
    else:
        where = {"cluster": "fresh_cluster", "sentinel": "fresh_sentinels"}
        url = request.getfixturevalue(where.get(request.param, "fresh_redis")).url
        kind, servers = PolicyCache, (url,)
    async with contextlib.AsyncExitStack() as caches:
        if request.param == "valkey":
            client = valkey.asyncio.Valkey.from_url(url, decode_responses=True)
            servers = (client,)
            caches.push_async_callback(client.aclose)

        async def new(kind=kind, **settings):
            if servers:
                settings |= PATIENT
            cache = await caches.enter_async_context(kind(*servers, **settings))
            assert await cache.health_check() is True
            return cache

        new.kind = kind
        yield new


@pytest.fixture
async def cache(new_cache):
    return await new_cache()
