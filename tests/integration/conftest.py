"""Fixtures of the integration tests."""

import os
import sys
import time

import httpx
import pytest
import redis

from apps_in_process import NATIVE, REVOKE_ALL, ROUTES, running
from documents_app import ADMIN, create_app
from sark_cache import CacheSettings, FeatureFlagManager, close_policy_caches
from sark_cache.rollout import manager as flags
from sark_cache.selection import registry as process
from sark_cache.selection import selector as selection
from serving import UVICORN, served


@pytest.fixture(scope="module")
def on_uvicorn():
    """The documents app on a real server, for the tests of one file."""
    if sys.platform == "win32":
        pytest.skip("there is no SIGTERM to end it by")
    with served(UVICORN, SARK_CACHE_RUST_CACHE_ROLLOUT_PCT="100") as serving:
        serving.wait_until_up()
        yield serving


@pytest.fixture(params=["in this process", "on uvicorn"])
async def client(request):
    """A client of the documents app, whose cache is empty and native for every user."""
    if request.param == "in this process":
        async with running(create_app(NATIVE)) as client:
            yield client
        return
    url = request.getfixturevalue("on_uvicorn").url
    # uvicorn closes the connections of requests that fail.
    reconnecting = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=reconnecting) as client:
        for method, path, body in (
            ("POST", "/invalidate", REVOKE_ALL),
            ("PUT", "/rollouts/rust_cache", {"percentage": 100}),
        ):
            answer = await client.request(method, ROUTES + path, json=body, headers=ADMIN)
            answer.raise_for_status()
        yield client


@pytest.fixture
def manager(server_available):
    """Makes managers of a server's flags that are closed after the test."""
    made = []

    def make(server, **options):
        made.append(FeatureFlagManager(redis.Redis.from_url(server.url), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
async def fresh_process(monkeypatch):
    """Resets the state of the selection to that of a new process."""
    for name in os.environ:
        if name.startswith("SARK_CACHE_"):
            monkeypatch.delenv(name)

    def forget():
        if selection._selection is not None:
            selection._selection.close()
            selection._selection = None

    forget()
    monkeypatch.setattr(flags, "_instance", None)
    await close_policy_caches()
    process._caches.clear()
    yield
    await close_policy_caches()
    process._caches.clear()
    forget()


@pytest.fixture
def settled(fresh_process):
    """Configures the selection of this process, with time-outs for a busy machine.

    A tiered cache has its lease then. A busy machine may need longer for that than a look-up waits.
    """

    def settle(*, is_reachable=True, **settings):
        patient = {"redis_connect_timeout": 10, "redis_command_timeout": 10}
        chosen = selection.use_settings(CacheSettings(**patient | settings))
        deadline = time.monotonic() + 20
        while is_reachable and chosen._tier is not None and chosen._tier.lease <= 0:
            assert time.monotonic() < deadline, "the tiered cache gets no lease"
            time.sleep(0.002)
        return chosen

    return settle
