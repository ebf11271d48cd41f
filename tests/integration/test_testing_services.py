"""Helpers for tests of a FastAPI service: `authorize` uses them, too."""

from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import Depends, FastAPI

from sark_cache import CacheSettings
from sark_cache.fastapi import authorize, policy_cache_lifespan
from sark_cache.testing import allow_all, deny_all, no_policy_cache, policy_cache

__all__ = ["no_policy_cache", "policy_cache"]


async def evaluate(user_id, action, resource, context):
    return {"allow": user_id == "alice"}


@pytest.fixture
def app():
    settings = CacheSettings(rust_cache_rollout_pct=100, tiered=False)
    made = FastAPI(lifespan=policy_cache_lifespan(settings))
    may = authorize(evaluate, user=lambda user: user, action="read", policy="test")

    @made.get("/documents/7", dependencies=[Depends(may)])
    async def document():
        return "ok"

    return made


@asynccontextmanager
async def client_of(app):
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


async def status(client, user):
    return (await client.get("/documents/7", params={"user": user})).status_code


async def test_every_evaluator_is_replaced_whatever_is_cached(app):
    async with client_of(app) as client:
        assert await status(client, "bob") == 403
        with allow_all():
            assert await status(client, "bob") == 200
        with deny_all():
            assert await status(client, "alice") == 403
        assert await status(client, "bob") == 403
        assert await status(client, "alice") == 200


async def test_the_requests_of_an_app_are_recorded(policy_cache, app):
    async with client_of(app) as client:
        for _ in range(2):
            assert await status(client, "alice") == 200
    assert policy_cache.requests == [("alice", "read", "/documents/7", None)] * 2
    assert len(policy_cache.evaluated) == 1


async def test_an_app_without_a_cache_evaluates_each_request(no_policy_cache, app):
    async with client_of(app) as client:
        for _ in range(2):
            assert await status(client, "alice") == 200
    assert no_policy_cache.metrics.loads == 2
