"""FastAPI: the policy cache of a process begins and ends with the apps that use it."""

from contextlib import asynccontextmanager

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import Mount

from apps_in_process import NATIVE, ROUTES, by, client_of, guarded, read, running
from documents_app import create_app, evaluate, may
from interpreters import needs_fork, run
from sark_cache.errors import SettingsError
from sark_cache.fastapi import (
    authorize,
    policy_cache_lifespan,
    policy_cache_router,
)
from sark_cache.settings import CacheSettings

POLICY = "documents_app:evaluate"
"""The policy of this app's evaluator."""


async def test_an_app_without_the_lifespan_says_what_is_missing():
    async with client_of(guarded(may), raises=True) as client:
        with pytest.raises(RuntimeError, match=r"FastAPI\(lifespan=policy_cache_lifespan\(\)\)"):
            await client.get("/", headers=by("alice"))


async def test_a_stopped_app_has_no_policy_cache():
    app = guarded(may)
    for _ in range(2):
        async with running(app) as client:
            assert (await client.get("/", headers=by("alice"))).status_code == 200
        assert (await client_of(app).get("/", headers=by("alice"))).status_code == 500


async def test_an_app_that_starts_again_has_an_empty_cache():
    app = guarded(may)
    evaluations = []
    for _ in range(2):
        async with running(app) as client:
            evaluations.append((await client.get("/", headers=by("alice"))).json()["evaluation"])
    assert evaluations[0] != evaluations[1]


async def test_the_lifespan_may_be_a_router_s():
    app = FastAPI()
    router = APIRouter(lifespan=policy_cache_lifespan(NATIVE))
    app.include_router(router)
    app.include_router(policy_cache_router("/cache"))
    async with running(app) as client:
        assert (await client.get("/cache/health")).status_code == 200


async def test_settings_come_from_the_environment_at_the_start(monkeypatch):
    app = guarded(may, settings=None)
    app.include_router(policy_cache_router())
    monkeypatch.setenv("SARK_CACHE_RUST_CACHE_ROLLOUT_PCT", "73")
    async with running(app) as client:
        metrics = (await client.get(f"{ROUTES}/metrics")).json()
    assert metrics["rollouts"]["rust_cache"] == 73


async def test_wrong_settings_fail_the_start_with_the_name_of_the_variable(monkeypatch):
    monkeypatch.setenv("SARK_CACHE_CACHE_TTL", "for ever")
    app = guarded(may, settings=None)
    with pytest.raises(SettingsError, match=r"SARK_CACHE_CACHE_TTL='for ever'.* must be"):
        async with app.router.lifespan_context(app):
            pass


async def test_expired_entries_are_removed_in_the_background_if_settings_say_so():
    fast = CacheSettings(rust_cache_rollout_pct=100, cache_ttl=0.01, cleanup_interval=0.01)
    async with running(create_app(fast)) as client:
        await read(client, "alice")
        metrics = {"cleanup": {"total_entries_removed": 0}}
        while not metrics["cleanup"]["total_entries_removed"]:
            metrics = (await client.get(f"{ROUTES}/metrics")).json()
    off = CacheSettings(rust_cache_rollout_pct=100, cleanup_enabled=False)
    app = create_app(off)
    async with running(app):
        assert not app._sark_cache[-1].cleanup.running


async def test_entries_near_expiration_are_refreshed_by_the_callback():
    settings = CacheSettings(rust_cache_rollout_pct=100, use_optimized_ttl=False, cache_ttl=0.5)
    refreshed = []

    async def revalidate(*asked):
        refreshed.append(asked)
        return {"allow": True}

    app = FastAPI(lifespan=policy_cache_lifespan(settings, revalidate={POLICY: revalidate}))
    critical = authorize(evaluate, user="cron", action="read", sensitivity="critical")
    app.get("/", dependencies=[Depends(critical)])(lambda: None)
    async with running(app) as client:
        while not refreshed:
            assert (await client.get("/")).status_code == 200
    assert refreshed[0] == ("cron", "read", "/", None)


async def test_apps_of_one_process_share_its_policy_cache_until_the_last_one_stops():
    first, second = guarded(may), guarded(may)
    async with running(first) as client:
        before = (await client.get("/", headers=by("alice"))).json()
        async with running(second) as other:
            assert (await other.get("/", headers=by("alice"))).json() == before
            assert first._sark_cache[-1].cache is second._sark_cache[-1].cache
        assert (await client.get("/", headers=by("alice"))).json() == before


async def test_an_app_with_other_settings_does_not_start_beside_one_that_runs():
    other = CacheSettings(rust_cache_rollout_pct=50, redis_url="redis://:secret@localhost:1/0")
    async with running(guarded(may)) as client:
        app = guarded(may, settings=other)
        with pytest.raises(RuntimeError, match=r"redis_url, rust_cache_rollout_pct$") as refused:
            async with app.router.lifespan_context(app):
                pass
        assert "secret" not in str(refused.value)
        assert (await client.get("/", headers=by("alice"))).status_code == 200


@needs_fork
def test_a_forked_child_of_a_running_app_has_its_own_policy_cache():
    assert run(
        """
        import asyncio, os, signal
        from fastapi import FastAPI
        from sark_cache.fastapi import policy_cache_lifespan
        from sark_cache.settings import CacheSettings

        async def live(process, while_running):
            settings = CacheSettings(tiered=False)
            app = FastAPI(lifespan=policy_cache_lifespan(settings))
            async with app.router.lifespan_context(app):
                cache = app._sark_cache[-1].cache
                await cache.set("alice", "read", "doc", {"of": process})
                await while_running()
                print(await cache.get("alice", "read", "doc"), flush=True)

        async def nothing():
            pass

        async def fork():
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                asyncio.run(live("child", nothing))
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        asyncio.run(live("parent", fork))
        """
    ) == ["{'of': 'child'}", "{'of': 'parent'}"]


def mounted(sub, path="/sub"):
    app = FastAPI(lifespan=policy_cache_lifespan(NATIVE))
    app.mount(path, sub)
    return app


async def test_mounted_apps_have_the_policy_cache_of_the_outermost():
    innermost = guarded(may)
    innermost.include_router(policy_cache_router())
    async with running(mounted(mounted(innermost))) as client:
        answer = await client.get("/sub/sub/", headers=by("alice"))
        assert answer.json()["asked"] == ["alice", "GET", "/sub/sub/", None]
        assert (await client.get(f"/sub/sub{ROUTES}/health")).status_code == 200


async def test_an_app_inside_a_plain_function_can_be_entered_explicitly():
    hidden = guarded(may)
    with_policy_cache = policy_cache_lifespan(NATIVE)

    async def wrapper(scope, receive, send):
        await hidden(scope, receive, send)

    @asynccontextmanager
    async def lifespan(app):
        async with with_policy_cache(app), with_policy_cache(hidden):
            yield

    app = FastAPI(lifespan=lifespan, routes=[Mount("/hidden", app=wrapper)])
    async with running(app) as client:
        answer = await client.get("/hidden/", headers=by("alice"))
        assert answer.json()["asked"][2] == "/hidden/"
    assert (await client_of(hidden).get("/", headers=by("alice"))).status_code == 500
