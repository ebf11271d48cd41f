"""FastAPI: an app's tests may replace the user, the authorization and the policy cache."""

from fastapi import FastAPI

from apps_in_process import NATIVE, client_of, read, running
from documents_app import create_app, current_user, may_read
from sark_cache import NullPolicyCache, SelectedPolicyCache
from sark_cache.fastapi import (
    PolicyCacheDep,
    policy_cache,
    policy_cache_lifespan,
)


async def test_tests_may_replace_its_dependencies():
    app = create_app(NATIVE)
    async with running(app) as client:
        app.dependency_overrides[current_user] = lambda: "mallory"
        assert (await client.get("/documents/1")).status_code == 403
        app.dependency_overrides[current_user] = lambda: "alice"
        assert (await client.get("/documents/1")).status_code == 200


async def test_tests_may_replace_an_authorization():
    app = create_app(NATIVE)
    app.dependency_overrides[may_read] = lambda: {"allow": True, "reason": "a test"}
    assert (await client_of(app).get("/documents/1")).json()["reason"] == "a test"


async def test_tests_may_replace_the_policy_cache():
    app = create_app(NATIVE)
    never_hits = NullPolicyCache()
    app.dependency_overrides[policy_cache] = lambda: never_hits
    answers = [await read(client_of(app), "alice") for _ in range(2)]
    assert answers[0].json() != answers[1].json()
    assert never_hits.metrics.loads == 2


async def test_the_replacement_of_the_policy_cache_may_be_async():
    app = create_app(NATIVE)
    never_hits = NullPolicyCache()

    async def replacement():
        return never_hits

    app.dependency_overrides[policy_cache] = replacement
    assert (await read(client_of(app), "alice")).status_code == 200
    assert never_hits.metrics.loads == 1


async def test_the_dependency_returns_the_policy_cache_of_the_process():
    app = FastAPI(lifespan=policy_cache_lifespan(NATIVE))

    @app.get("/")
    async def kind(cache: PolicyCacheDep) -> str:
        return type(cache).__name__

    async with running(app) as client:
        assert (await client.get("/")).json() == SelectedPolicyCache.__name__
