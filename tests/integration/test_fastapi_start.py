"""Warnings at the start of an app: settings that cache nothing, and caches of separate workers."""

import asyncio
import logging
import threading
from typing import Annotated

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI

from documents_app import evaluate
from sark_cache.fastapi import PolicyCacheDep, authorize, policy_cache_lifespan
from sark_cache.selection import selector as selection
from sark_cache.selection.registry import open_caches
from sark_cache.settings import CacheSettings


@pytest.fixture(autouse=True)
def first_of_its_process(monkeypatch):
    """Makes this process look as if no app had run in it."""
    monkeypatch.setattr(selection, "_selection", None)


@pytest.fixture
def warnings_at_start(caplog):
    """Starts an app and sends two requests; returns its warnings."""

    async def start(**settings):
        app = FastAPI(lifespan=policy_cache_lifespan(CacheSettings(**settings)))
        may = authorize(evaluate, user="cron")
        app.get("/", dependencies=[Depends(may)])(lambda: "passed")
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://app") as client,
        ):
            for _ in range(2):
                assert (await client.get("/")).status_code == 200
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "sark_cache" and record.levelno >= logging.WARNING
        ]

    return start


async def test_settings_that_cache_nothing_are_named_once(warnings_at_start):
    [warning] = await warnings_at_start(rust_cache_rollout_pct=0)
    assert "nothing is cached" in warning
    assert "SARK_CACHE_REDIS_URL" in warning


async def test_native_caches_of_several_workers_are_named_once(warnings_at_start, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    [warning] = await warnings_at_start()
    assert "WEB_CONCURRENCY=2" in warning
    assert "SARK_CACHE_REDIS_URL" in warning


async def test_the_default_settings_cache_and_log_no_warning(warnings_at_start):
    assert await warnings_at_start(tiered=False) == []


# Revocations in the background


async def test_a_revocation_may_be_a_background_task():
    app = FastAPI(lifespan=policy_cache_lifespan(CacheSettings(tiered=False)))

    @app.get("/")
    async def read(decision: Annotated[dict, Depends(authorize(evaluate, user="alice"))]) -> dict:
        return decision

    @app.post("/revoke")
    async def revoke(cache: PolicyCacheDep, tasks: BackgroundTasks) -> None:
        tasks.add_task(cache.invalidate, user_id="alice")

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        first = (await client.get("/")).json()
        assert (await client.get("/")).json() == first
        assert (await client.post("/revoke")).status_code == 200
        assert (await client.get("/")).json()["evaluation"] > first["evaluation"]


# A shutdown that is cancelled


def poller_threads():
    """Returns the names of the threads that poll Redis."""
    return [thread.name for thread in threading.enumerate() if thread.name.endswith(" poller")]


async def shut_down(app, turns):
    """Runs an app, and cancels its shutdown after some iterations of the event loop.

    Returns whether the shutdown was still running then.
    """
    started, ending = asyncio.Event(), asyncio.Event()

    async def run():
        async with app.router.lifespan_context(app):
            started.set()
            await ending.wait()

    running = asyncio.create_task(run())
    await started.wait()
    ending.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    was_ending = running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() is was_ending
    return was_ending


async def test_a_shutdown_that_is_cancelled_anywhere_leaves_nothing_behind(own_redis):
    server = own_redis()
    before = poller_threads()
    turns, was_ending = 0, True
    while was_ending:
        settings = CacheSettings(redis_url=server.url, cleanup_enabled=True)
        app = FastAPI(lifespan=policy_cache_lifespan(settings))
        was_ending = await shut_down(app, turns)
        turns += 1
        assert poller_threads() == before
        assert open_caches() == []
        named = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in named if name.startswith("sark-cache")]
    assert turns > 3
