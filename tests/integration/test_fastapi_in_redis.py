"""FastAPI: an app whose decisions are in Redis, while the server is up and while it is down."""

import asyncio
import logging

import pytest

from apps_in_process import REVOKE_ALL, ROUTES, read, running
from documents_app import ADMIN, create_app
from sark_cache.settings import CacheSettings


@pytest.fixture
def in_redis(own_redis):
    """A server for this test alone, and settings that use it for every user."""
    server = own_redis()
    # A busy machine is not an outage.
    patient = {"redis_connect_timeout": 2, "redis_command_timeout": 2}
    return server, CacheSettings(redis_url=server.url, rust_cache_rollout_pct=0, **patient)


async def test_decisions_are_stored_in_redis_if_configured(in_redis):
    server, settings = in_redis
    async with running(create_app(settings)) as client:
        await read(client, "alice")
        [key] = server.command("KEYS", "sark-cache:1:*")
        assert ":alice:read:document%3A1:" in key
        answer = await client.get(f"{ROUTES}/health")
        assert answer.json()["backends"] == {"redis": "ok", "tiered": "ok"}


def clients(server):
    return int(server.info("clients")["connected_clients"])


async def test_stopping_the_last_app_closes_everything(in_redis):
    server, settings = in_redis
    before = clients(server)
    app = create_app(settings)
    async with running(app) as client:
        await read(client, "alice")
        await client.put(f"{ROUTES}/rollouts/rust_cache", json={"percentage": 100}, headers=ADMIN)
        assert clients(server) > before
    async with asyncio.timeout(10):
        while clients(server) > before:
            await asyncio.sleep(0.01)


async def test_an_app_starts_and_serves_while_redis_is_down(in_redis):
    server, settings = in_redis
    server.kill()
    async with running(create_app(settings)) as client:
        answer = await client.get(f"{ROUTES}/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert answer.json()["backends"]["redis"] == "unavailable"
        assert (await read(client, "alice")).status_code == 200
        assert (await read(client, "mallory")).status_code == 403


async def test_an_unconfirmed_change_is_answered_with_503_and_the_current_state(in_redis):
    server, settings = in_redis
    async with running(create_app(settings)) as client:
        await read(client, "alice")
        server.kill()
        for given in ({"user_id": "alice"}, {"pattern": "*"}):
            answer = await client.post(f"{ROUTES}/invalidate", json=given, headers=ADMIN)
            assert answer.status_code == 503
            assert "could not be confirmed by the redis cache" in answer.json()["detail"]
            assert "alice" not in answer.text
        path = f"{ROUTES}/rollouts/rust_cache"
        answer = await client.put(path, json={"percentage": 10}, headers=ADMIN)
        assert answer.status_code == 503
        assert "set rust_cache to 10 % in this process" in answer.json()["detail"]
        assert "Redis did not confirm" in answer.json()["detail"]
        assert (await client.get(path, headers=ADMIN)).json()["percentage"] == 10, "holds here"
        for path in ("/rollback", "/rollback/rust_cache"):
            assert (await client.post(ROUTES + path, json={}, headers=ADMIN)).status_code == 503
        server.start()
        async with asyncio.timeout(10):
            while (await client.get(f"{ROUTES}/health")).status_code != 200:
                await asyncio.sleep(0.01)
        answer = await client.post(f"{ROUTES}/invalidate", json=REVOKE_ALL, headers=ADMIN)
        assert answer.status_code == 200


async def test_no_user_is_named_in_the_log(in_redis, caplog):
    server, settings = in_redis
    caplog.set_level(logging.INFO, "sark_cache")
    app = create_app(settings)
    async with running(app) as client:
        await read(client, "alice")
        await client.post(f"{ROUTES}/invalidate", json={"user_id": "alice"}, headers=ADMIN)
        server.kill()
        await read(client, "alice")
        await client.post(f"{ROUTES}/invalidate", json={"user_id": "alice"}, headers=ADMIN)
    ours = [record for record in caplog.records if record.name.startswith("sark_cache")]
    assert ours
    assert not [record for record in ours if "alice" in str(vars(record))]
