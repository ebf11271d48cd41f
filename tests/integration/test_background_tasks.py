"""Revocations in background tasks: one called after the response was sent is carried out."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sark_cache import (
    CacheSettings,
    PolicyCache,
    SelectedPolicyCache,
    close_policy_caches,
    create_policy_cache,
    get_policy_cache,
    get_rust_policy_cache,
)
from sark_cache.fastapi import PolicyCacheDep, policy_cache_lifespan
from sark_cache.selection import selector as selection

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")


def dropping(cache):
    """A plain function, which Starlette calls in a thread without an event loop."""

    def call():
        cache.invalidate(user_id="alice")

    return call


CALLS = {
    "invalidate": lambda cache: (cache.invalidate, {"user_id": "alice"}),
    "delete": lambda cache: (
        cache.delete,
        dict(zip(("user_id", "action", "resource"), ALICE, strict=True)),
    ),
    "invalidate_pattern": lambda cache: (cache.invalidate_pattern, {"pattern": "*:alice:*"}),
    "clear": lambda cache: (cache.clear, {}),
    "clear_all": lambda cache: (cache.clear_all, {}),
    "by a function that drops it": lambda cache: (dropping(cache), {}),
}

CACHES = {
    "get_policy_cache": get_policy_cache,
    "get_rust_policy_cache": get_rust_policy_cache,
    "create_policy_cache": lambda: create_policy_cache("alice"),
    "SelectedPolicyCache": SelectedPolicyCache,
}


@pytest.fixture
async def settings(fresh_redis):
    patient = {"redis_connect_timeout": 10, "redis_command_timeout": 10}
    yield CacheSettings(redis_url=fresh_redis.url, **patient)
    await close_policy_caches()
    selection.use_settings(CacheSettings(tiered=False)).close()


@asynccontextmanager
async def client_of(app):
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


async def served(url):
    async with PolicyCache(url, connect_timeout=10, command_timeout=10) as cache:
        return await cache.get(*ALICE)


async def is_gone(url):
    async with asyncio.timeout(20):
        while await served(url) is not None:
            await asyncio.sleep(0.005)
    return True


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("cache_of", CACHES.values(), ids=CACHES)
async def test_a_background_task_revokes(settings, fresh_redis, cache_of, call):
    app = FastAPI(lifespan=policy_cache_lifespan(settings))

    @app.post("/store")
    async def store(cache: PolicyCacheDep):
        return await cache.set(*ALICE, ALLOW)

    @app.post("/revoke")
    async def revoke(tasks: BackgroundTasks):
        function, arguments = call(cache_of())
        tasks.add_task(function, **arguments)

    @app.get("/cached")
    async def cached(cache: PolicyCacheDep):
        return await cache.get(*ALICE)

    async with client_of(app) as client:
        assert (await client.post("/store")).json() is True
        assert (await client.get("/cached")).json() == ALLOW
        assert (await client.post("/revoke")).status_code == 200
        assert await is_gone(fresh_redis.url)
        assert (await client.get("/cached")).json() is None


async def test_a_background_task_of_starlette_revokes(fresh_redis):
    async with PolicyCache(fresh_redis.url, connect_timeout=10, command_timeout=10) as cache:

        async def revoke(request):
            await cache.set(*ALICE, ALLOW)
            task = BackgroundTask(cache.invalidate, user_id="alice")
            return PlainTextResponse("ok", background=task)

        async with client_of(Starlette(routes=[Route("/", revoke)])) as client:
            assert (await client.get("/")).text == "ok"
            assert await is_gone(fresh_redis.url)


async def test_a_revocation_called_just_before_the_app_stops_is_carried_out(settings, fresh_redis):
    app = FastAPI(lifespan=policy_cache_lifespan(settings))

    @app.post("/revoke")
    async def revoke(cache: PolicyCacheDep):
        await cache.set(*ALICE, ALLOW)
        cache.invalidate(user_id="alice")

    async with client_of(app) as client:
        assert (await client.post("/revoke")).status_code == 200
    assert await served(fresh_redis.url) is None
