"""FastAPI under real servers: uvicorn, and gunicorn with an app that is loaded before the fork.

gunicorn runs uvicorn's worker and its own ASGI worker. Two workers, each with its own policy cache,
share the decisions in Redis.
"""

import sys
import time

import httpx
import pytest

from documents_app import ADMIN
from serving import ASGI_WORKER, PATIENCE, UVICORN, UVICORN_WORKER, served

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")

ROUTES = "/policy-cache"
ALICE = {"x-user": "alice"}
MALLORY = {"x-user": "mallory"}
A_SECOND = 1.0
"""The number of seconds within which every process sees a rollout."""

FORKED = {"uvicorn's worker": UVICORN_WORKER, "gunicorn's own worker": ASGI_WORKER}
SERVERS = {"uvicorn": (UVICORN, 1), **{name: (command, 2) for name, command in FORKED.items()}}


def in_redis(server):
    """The environment that uses a server for every user; a busy machine is not an outage."""
    return {
        "SARK_CACHE_REDIS_URL": server.url,
        "SARK_CACHE_REDIS_CONNECT_TIMEOUT": "5",
        "SARK_CACHE_REDIS_COMMAND_TIMEOUT": "5",
    }


@pytest.fixture(scope="module", params=FORKED)
def serving(request, redis_server):
    """Two workers that use Redis."""
    redis_server.revive()
    redis_server.flush()
    with served(FORKED[request.param], **in_redis(redis_server)) as serving:
        serving.wait_until_up()
        yield serving


@pytest.fixture
def workers(serving):
    """A client of each worker; nothing is cached, and every user is served by Redis."""
    with serving.workers() as (here, there):
        put(here, 0)
        for each in (here, there):
            becomes(each, 0)
            each.post(f"{ROUTES}/invalidate", json={"everything": True}, headers=ADMIN)
        yield here, there


def read(worker, headers=ALICE):
    return worker.get("/documents/1", headers=headers)


def put(worker, percentage):
    path = f"{ROUTES}/rollouts/rust_cache"
    answer = worker.put(path, json={"percentage": percentage}, headers=ADMIN)
    assert answer.status_code == 200, answer.text


def becomes(worker, percentage):
    """Returns the number of seconds until a worker sees a percentage."""
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE:
        answer = worker.get(f"{ROUTES}/rollouts/rust_cache", headers=ADMIN)
        if answer.json()["percentage"] == percentage:
            return time.monotonic() - begun
        time.sleep(0.01)
    pytest.fail(f"never saw {percentage} %")


def test_loading_an_app_starts_no_thread_before_the_fork(workers):
    for each in workers:
        assert each.get("/threads-at-import").text == "1"


def test_a_denied_user_gets_the_reason_from_each_worker(workers):
    for each in workers:
        assert read(each).status_code == 200
        answer = read(each, MALLORY)
        assert (answer.status_code, answer.json()) == (403, {"detail": "not your document"})


def test_a_decision_of_one_worker_is_served_by_the_other(workers):
    here, there = workers
    first = read(here).json()
    assert first["by"] == here.pid
    assert read(there).json() == first


def test_an_invalidation_through_one_worker_reaches_the_other_at_once(workers):
    here, there = workers
    for by, other in ((here, there), (there, here)):
        first = read(by).json()
        assert read(other).json() == first
        answer = by.post(f"{ROUTES}/invalidate", json={"user_id": "alice"}, headers=ADMIN)
        assert answer.json() == {"invalidated": 1}
        second = read(other).json()
        assert (second["by"], second["evaluation"]) != (first["by"], first["evaluation"])


def test_a_rollout_through_one_worker_is_seen_by_the_other_within_a_second(workers):
    here, there = workers
    took = []
    for percentage in (20, 40, 60, 80, 100):  # the machine may be busy at one of them
        put(here, percentage)
        took.append(becomes(there, percentage))
    assert sorted(took)[len(took) // 2] < A_SECOND


def test_a_rollout_and_its_rollback_apply_to_both_workers(workers):
    here, there = workers
    put(here, 100)
    becomes(there, 100)
    natively = [read(each).json() for each in (here, there, here, there)]
    assert [each["by"] for each in natively] == [here.pid, there.pid] * 2, "each has its own"
    there.post(f"{ROUTES}/rollback", json={}, headers=ADMIN)
    becomes(here, 0)
    first = read(here).json()
    assert read(there).json() == first


@pytest.mark.parametrize("name", SERVERS)
def test_sigterm_ends_it_and_leaves_nothing_behind(fresh_redis, name):
    command, workers = SERVERS[name]
    before = clients(fresh_redis)
    with served(command, **in_redis(fresh_redis)) as serving:
        serving.wait_until_up()
        for _ in range(10):
            assert httpx.get(f"{serving.url}/documents/1", headers=ALICE).status_code == 200
        assert clients(fresh_redis) > before
        assert serving.terminate() == 0
        assert serving.output.splitlines() == ["[]"] * workers, "no task and no thread"
        for trouble in (
            *("Traceback", "Exception ignored", "ResourceWarning", "never awaited"),
            *("Task was destroyed", "was never retrieved", "multi-threaded"),
        ):
            assert trouble not in serving.errors, serving.errors
    deadline = time.monotonic() + PATIENCE
    while clients(fresh_redis) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert clients(fresh_redis) == before


def clients(server):
    return int(server.info("clients")["connected_clients"])


@pytest.mark.parametrize("name", SERVERS)
def test_wrong_settings_fail_the_start_and_name_the_variable(name):
    command, _ = SERVERS[name]
    with served(command, SARK_CACHE_CACHE_TTL="for ever") as serving:
        assert serving.process.wait(PATIENCE) not in {0, None}
        assert "SARK_CACHE_CACHE_TTL='for ever'" in serving.errors
