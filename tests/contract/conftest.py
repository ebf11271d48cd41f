"""Fixtures that run every test of this folder on every backend."""

import contextlib
import functools

import pytest
import valkey.asyncio

from sark_cache import RustPolicyCache
from sark_cache.backends.redis import PolicyCache
from sark_cache.backends.tiered import TieredPolicyCache

# Commands may be slow on a busy machine. How long they may take is tested in tests/faults.
PATIENT = {"connect_timeout": 10, "command_timeout": 10}


# A miss for the want of a lease is no fault. How long a revocation waits is tested elsewhere.
LONG_LEASES = {"max_staleness": 30, "settle": False}


BACKENDS = ["native", "redis", "valkey", "cluster", "sentinel", "tiered"]


@pytest.fixture
def caches_on(request):
    """Opens a backend, given by name and empty at first, and makes caches on it."""
    return functools.partial(_caches_on, request)


@contextlib.asynccontextmanager
async def _caches_on(request, backend):
    if backend == "native":
        kind, servers = RustPolicyCache, ()
    else:
        where = {"cluster": "fresh_cluster", "sentinel": "fresh_sentinels"}
        url = request.getfixturevalue(where.get(backend, "fresh_redis")).url
        kind, servers = TieredPolicyCache if backend == "tiered" else PolicyCache, (url,)
    async with contextlib.AsyncExitStack() as caches:
        if backend == "valkey":
            client = valkey.asyncio.Valkey.from_url(url, decode_responses=True)
            servers = (client,)
            caches.push_async_callback(client.aclose)

        async def new(kind=kind, **settings):
            if servers:
                settings |= PATIENT
            if backend == "tiered":
                settings |= LONG_LEASES
            cache = await caches.enter_async_context(kind(*servers, **settings))
            assert await cache.health_check() is True
            return cache

        new.kind = kind
        yield new


@pytest.fixture(params=BACKENDS)
async def new_cache(request, caches_on):
    """Makes caches on one backend, which is empty at first."""
    async with caches_on(request.param) as new:
        yield new


@pytest.fixture
async def cache(new_cache):
    return await new_cache()
