"""FastAPI: responses of an app with a policy cache, in this process and on a real server."""

import asyncio
import importlib
import json
import logging
import sys
from contextlib import asynccontextmanager
from itertools import count
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Mount

from documents_app import ADMIN, DECISIONS, create_app, current_user, evaluate, may, may_read
from interpreters import needs_fork, run
from sark_cache import Loaded, NullPolicyCache, SelectedPolicyCache
from sark_cache.errors import SettingsError
from sark_cache.fastapi import (
    FromRequest,
    PolicyCacheDep,
    authorize,
    policy_cache,
    policy_cache_lifespan,
    policy_cache_router,
)
from sark_cache.settings import CacheSettings
from serving import UVICORN, served

NATIVE = CacheSettings(rust_cache_rollout_pct=100)
ROUTES = "/policy-cache"
REVOKE_ALL = {"everything": True}
POLICY = "documents_app:evaluate"
"""The policy of this app's evaluator."""


@pytest.fixture(scope="module")
def on_uvicorn():
    if sys.platform == "win32":
        pytest.skip("there is no SIGTERM to end it by")
    with served(UVICORN, SARK_CACHE_RUST_CACHE_ROLLOUT_PCT="100") as serving:
        serving.wait_until_up()
        yield serving


@asynccontextmanager
async def running(app, *, raises=False):
    """Starts an app in this process and yields a client; exceptions are raised if `raises`."""
    async with app.router.lifespan_context(app), client_of(app, raises=raises) as client:
        yield client


def client_of(app, *, raises=False):
    """Returns a client of an app, whether or not the app runs."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    return httpx.AsyncClient(transport=transport, base_url="http://app")


@pytest.fixture(params=["in this process", "on uvicorn"])
async def client(request):
    """A client of the documents app, whose cache is empty and native for every user."""
    if request.param == "in this process":
        async with running(create_app(NATIVE)) as client:
            yield client
        return
    url = request.getfixturevalue("on_uvicorn").url
    reconnecting = httpx.Limits(
        max_keepalive_connections=0
    )  # uvicorn closes the connections of requests that fail
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=reconnecting) as client:
        for method, path, body in (
            ("POST", "/invalidate", REVOKE_ALL),
            ("PUT", "/rollouts/rust_cache", {"percentage": 100}),
        ):
            answer = await client.request(method, ROUTES + path, json=body, headers=ADMIN)
            answer.raise_for_status()
        yield client


def by(user):
    """Returns the headers of a user's request."""
    return {"x-user": user}


async def read(client, user, document="1", **headers):
    return await client.get(f"/documents/{document}", headers={**by(user), **headers})


# Authorization


async def test_an_allowed_user_passes_and_the_route_gets_the_decision(client):
    answer = await read(client, "alice", **{"x-mfa": "true"})
    assert answer.status_code == 200
    decision = answer.json()
    assert decision["allow"] is True
    assert decision["asked"] == ["alice", "read", "document:1", {"mfa": True}]


async def test_a_denied_user_gets_the_reason(client):
    answer = await read(client, "mallory")
    assert answer.status_code == 403
    assert answer.json() == {"detail": "not your document"}


@pytest.mark.parametrize("user", [user for user in DECISIONS if user != "mallory"])
async def test_every_decision_other_than_true_is_a_denial(client, user):
    for _ in range(2):  # by the policy, and by the cache
        answer = await read(client, user)
        assert answer.status_code == 403
        reason = DECISIONS[user].get("reason")
        detail = reason if isinstance(reason, str) and reason else "denied by policy"
        assert answer.json() == {"detail": detail}


async def test_a_repeat_is_answered_by_the_cache(client):
    first, second = [(await read(client, "alice")).json() for _ in range(2)]
    assert second == first
    other = (await read(client, "alice", **{"x-mfa": "true"})).json()
    assert other["evaluation"] != first["evaluation"], "the context is another one"


async def test_the_default_action_is_the_method_and_the_default_resource_the_path(client):
    answer = await client.put("/documents/caf%C3%A9%20au%20lait?q=1", headers=by("alice"))
    assert answer.json()["asked"] == ["alice", "PUT", "/documents/café au lait", None]


@pytest.mark.parametrize(
    ("user", "status"), [("broken", 500), ("unavailable", 503), ("undecided", 500)]
)
async def test_no_user_passes_if_the_policy_cannot_be_evaluated(client, user, status):
    for _ in range(2):
        assert (await read(client, user)).status_code == status


async def test_the_user_comes_from_its_dependency(client):
    answer = await client.get("/documents/1")
    assert (answer.status_code, answer.json()) == (401, {"detail": "who are you?"})


async def test_evaluations_are_timed_and_hits_are_not_evaluated(client):
    before = (await client.get(f"{ROUTES}/metrics")).json()["cache"]
    for _ in range(3):
        await read(client, "alice")
    after = (await client.get(f"{ROUTES}/metrics")).json()["cache"]
    assert (after["loads"] - before["loads"], after["hits"] - before["hits"]) == (1, 2)
    assert after["avg_opa_latency_ms"] > 0


# Routes for everybody


async def test_health_says_which_backends_can_answer(client):
    await read(client, "alice")
    answer = await client.get(f"{ROUTES}/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["backends"]["native"] == "ok"
    assert answer.json()["enabled"] is True


async def test_metrics_are_those_of_cache_and_cleanup_and_the_rollouts(client):
    metrics = (await client.get(f"{ROUTES}/metrics")).json()
    assert {"hits", "misses", "evictions", "hit_rate", "size"} < metrics["cache"].keys()
    assert "cleanups_run" in metrics["cleanup"]
    assert metrics["rollouts"] == {"rust_cache": 100, "rust_opa": 0}


async def test_metrics_are_available_to_prometheus(client):
    for _ in range(2):
        await read(client, "alice")
    answer = await client.get(f"{ROUTES}/metrics/prometheus")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {each.name: each for each in text_string_to_metric_families(answer.text)}
    hits = {each.labels["backend"]: each.value for each in families["sark_cache_hits"].samples}
    assert hits["native"] >= 1
    rollouts = families["sark_cache_rollout_percent"].samples
    assert {each.labels["feature"]: each.value for each in rollouts}["rust_cache"] == 100


# Routes for admins


@pytest.mark.parametrize(
    ("given", "died"),
    [
        ({"user_id": "alice"}, 3),
        ({"user_id": "alice", "resource": "document:1"}, 1),
        ({"action": "PUT"}, 1),
        ({"tags": ["bundle:1", "bundle:0"]}, 4),
        ({"user_id": "bob", "tags": ["bundle:1"]}, 2),
        ({"user_id": None, "pattern": "policy:decision:*:read:document%3A1:*"}, 2),
        (REVOKE_ALL, 5),
        ({"user_id": "nobody"}, 0),
        ({"user_id": "*"}, 0),
    ],
)
async def test_an_admin_revokes_decisions_that_match_all_given_fields(client, given, died):
    for user in ("alice", "bob"):
        for document in ("1", "2"):
            await read(client, user, document)
    await client.put("/documents/1", headers=by("alice"))
    answer = await client.post(f"{ROUTES}/invalidate", json=given, headers=ADMIN)
    assert (answer.status_code, answer.json()) == (200, {"invalidated": died})


async def test_a_revoked_decision_is_evaluated_again(client):
    first = (await read(client, "alice")).json()
    await client.post(f"{ROUTES}/invalidate", json={"user_id": "alice"}, headers=ADMIN)
    assert (await read(client, "alice")).json()["evaluation"] > first["evaluation"]


@pytest.mark.parametrize(
    "unclear",
    [
        {},
        {"tags": []},
        {"user_id": None},
        {"everything": False},
        {"everything": "yes"},
        {"everything": True, "user_id": "alice"},
        {"pattern": "*", "user_id": "alice"},
        {"pattern": "*" * 1025},
        {"user": "alice", "everything": True},
        {"user_id": 7},
    ],
)
async def test_an_ambiguous_revocation_is_refused(client, unclear):
    await read(client, "alice")
    answer = await client.post(f"{ROUTES}/invalidate", json=unclear, headers=ADMIN)
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], list)
    revoked = await client.post(f"{ROUTES}/invalidate", json=REVOKE_ALL, headers=ADMIN)
    assert revoked.json() == {"invalidated": 1}, "it has revoked nothing"


async def test_an_admin_changes_a_rollout(client):
    path = f"{ROUTES}/rollouts/rust_cache"
    answer = await client.put(path, json={"percentage": 25}, headers=ADMIN)
    moved = {"feature": "rust_cache", "percentage": 25}
    assert (answer.status_code, answer.json()) == (200, moved)
    assert (await client.get(path, headers=ADMIN)).json() == moved
    answer = await client.get(f"{ROUTES}/rollouts", headers=ADMIN)
    assert answer.json() == {"rollouts": {"rust_cache": 25, "rust_opa": 0}}


@pytest.mark.parametrize("percentage", [-1, 101, 12.5, 12.0, "12", True, None])
async def test_a_value_that_is_not_a_percentage_is_refused(client, percentage):
    path = f"{ROUTES}/rollouts/rust_cache"
    answer = await client.put(path, json={"percentage": percentage}, headers=ADMIN)
    assert answer.status_code == 422
    assert (await client.get(path, headers=ADMIN)).json()["percentage"] == 100


async def test_an_invalid_feature_name_is_refused(client):
    path = f"{ROUTES}/rollouts/a%0Ab"
    assert (await client.get(path, headers=ADMIN)).status_code == 422
    answer = await client.put(path, json={"percentage": 1}, headers=ADMIN)
    assert answer.status_code == 422


async def test_an_admin_rolls_back_one_feature_or_all(client):
    answer = await client.post(f"{ROUTES}/rollback/rust_cache", json={}, headers=ADMIN)
    assert answer.json() == {"feature": "rust_cache", "percentage": 0}
    await client.put(f"{ROUTES}/rollouts/rust_opa", json={"percentage": 7}, headers=ADMIN)
    answer = await client.post(f"{ROUTES}/rollback", json={}, headers=ADMIN)
    assert answer.json() == {"rollouts": {"rust_cache": 0, "rust_opa": 0}}


async def test_a_rollback_moves_requests_to_the_next_backend_at_once(client):
    first = (await read(client, "alice")).json()
    await client.post(f"{ROUTES}/rollback", json={}, headers=ADMIN)
    evaluated = [(await read(client, "alice")).json()["evaluation"] for _ in range(2)]
    assert evaluated == [first["evaluation"] + 1, first["evaluation"] + 2], "nothing is cached"
    backends = (await client.get(f"{ROUTES}/health")).json()["backends"]
    assert backends == {"native": "ok", "none": "ok"}, "a cache that never hits can answer"


ADMIN_ROUTES = [
    ("POST", "/invalidate"),
    ("GET", "/rollouts"),
    ("GET", "/rollouts/{feature}"),
    ("PUT", "/rollouts/{feature}"),
    ("POST", "/rollback"),
    ("POST", "/rollback/{feature}"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
async def test_a_user_who_is_not_an_admin_is_refused(client, method, path):
    async def asked_by(headers):
        body = {"everything": True, "percentage": 7}
        url = (ROUTES + path).format(feature="rust_cache")
        return await client.request(method, url, json=body, headers=headers)

    assert (await asked_by({})).status_code == 401
    assert (await asked_by({"authorization": "Bearer guess"})).status_code == 403
    rollouts = (await client.get(f"{ROUTES}/rollouts", headers=ADMIN)).json()
    assert rollouts == {"rollouts": {"rust_cache": 100, "rust_opa": 0}}


async def test_without_a_sign_in_for_admins_there_are_no_routes_for_them():
    app = create_app(NATIVE, with_admin=False)
    async with running(app) as client:
        for method, path in ADMIN_ROUTES:
            url = (ROUTES + path).format(feature="rust_cache")
            answer = await client.request(method, url, json=REVOKE_ALL, headers=ADMIN)
            assert answer.status_code == 404
        assert (await client.get(f"{ROUTES}/health")).status_code == 200
        paths = (await client.get("/openapi.json")).json()["paths"]
    routes = ["/health", "/metrics", "/metrics/prometheus"]
    assert sorted(path for path in paths if path.startswith(ROUTES)) == [
        ROUTES + path for path in routes
    ]


# OpenAPI


async def test_the_schema_is_valid_and_has_requests_and_responses(client):
    schema = (await client.get("/openapi.json")).json()
    validate(schema)
    reading = schema["paths"]["/documents/{document}"]["get"]
    assert [(each["in"], each["name"]) for each in reading["parameters"]] == [
        ("path", "document"),
        ("header", "x-mfa"),
    ]
    assert reading["security"] == [{"APIKeyHeader": []}]
    denial = reading["responses"]["403"]["content"]["application/json"]["schema"]
    assert denial == {"$ref": "#/components/schemas/Denial"}
    assert schema["components"]["schemas"]["Denial"]["required"] == ["detail"]


async def test_the_schema_has_the_admins_routes_behind_their_sign_in(client):
    schema = (await client.get("/openapi.json")).json()
    guarded = {
        (method.upper(), path.removeprefix(ROUTES))
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
        if {"HTTPBearer": []} in operation.get("security", [])
    }
    assert guarded == set(ADMIN_ROUTES)
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    moved = schema["paths"][f"{ROUTES}/rollouts/{{feature}}"]["put"]
    assert {"200", "404", "409", "422", "503"} == moved["responses"].keys()
    percentage = schema["components"]["schemas"]["Percentage"]["properties"]["percentage"]
    assert (percentage["minimum"], percentage["maximum"]) == (0, 100)
    assert "503" in schema["paths"][f"{ROUTES}/health"]["get"]["responses"]


# WebSockets


async def websocket_messages(app, user):
    """Returns the messages that an app sends to a WebSocket."""
    received = [{"type": "websocket.connect"}]
    sent = []

    async def receive():
        return received.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"x-user", user.encode())]
    scope = {"type": "websocket", "path": "/live", "headers": headers, "query_string": b""}
    await app({**scope, "subprotocols": [], "asgi": {"version": "3.0"}}, receive, send)
    return sent


async def test_a_websocket_is_opened_only_for_an_allowed_user():
    app = create_app(NATIVE)
    async with running(app):
        opened, decision, _ = await websocket_messages(app, "alice")
        assert opened["type"] == "websocket.accept"
        assert json.loads(decision["text"])["asked"] == ["alice", "WEBSOCKET", "/live", None]
        refused = await websocket_messages(app, "mallory")
        assert "websocket.accept" not in [message["type"] for message in refused]


# Arguments of `authorize`


def guarded(dependency, settings=NATIVE):
    """Returns an app with one route, which answers with the value of its dependency."""
    app = FastAPI(lifespan=policy_cache_lifespan(settings))

    @app.get("/")
    async def answer(decision: Annotated[dict, Depends(dependency)]) -> dict:
        return decision

    return app


async def asked(dependency):
    """Returns the request that reaches the policy through a dependency."""
    async with running(guarded(dependency)) as client:
        return (await client.get("/")).json()["asked"]


async def test_each_of_its_arguments_may_be_constant():
    constant = authorize(evaluate, user="cron", action="sweep", resource="attic", tags={"a", "b"})
    assert await asked(constant) == ["cron", "sweep", "attic", None]


async def test_each_of_its_arguments_may_be_a_dependency():
    async def user(method: Annotated[str, Depends(lambda: "dependency of a dependency")]) -> str:
        return method

    given = {
        "action": lambda: "sweep",
        "resource": lambda: "attic",
        "context": lambda: {"hour": 3},
        "sensitivity": lambda: "critical",
        "tags": lambda: ["bundle:2"],
    }
    app = guarded(authorize(evaluate, user=user, **given))

    @app.post("/forget")
    async def forget(cache: PolicyCacheDep) -> int:
        return await cache.invalidate(tags=["bundle:2"])

    async with running(app) as client:
        asked = (await client.get("/")).json()["asked"]
        assert asked == ["dependency of a dependency", "sweep", "attic", {"hour": 3}]
        assert (await client.post("/forget")).json() == 1


async def test_each_of_its_arguments_may_be_read_from_the_request():
    read = {
        "user": lambda request: request.headers["x-user"],
        "action": lambda request: request.method.lower(),
        "resource": lambda request: request.path_params["document"],
        "context": lambda request: {"hour": int(request.query_params["hour"])},
        "sensitivity": lambda _request: None,
        "tags": lambda _request: ["bundle:2"],
    }
    may = authorize(evaluate, **{name: FromRequest(found) for name, found in read.items()})
    app = FastAPI(lifespan=policy_cache_lifespan(NATIVE))

    @app.get("/documents/{document}")
    async def answer(document: str, decision: Annotated[dict, Depends(may)]) -> dict:
        return decision

    async with running(app) as client:
        first, second = [
            (await client.get("/documents/7?hour=3", headers=by("alice"))).json() for _ in range(2)
        ]
    assert first["asked"] == ["alice", "get", "7", {"hour": 3}]
    assert second == first


async def test_an_exception_from_reading_the_request_ends_it():
    def nobody(_request):
        raise HTTPException(401, "who are you?")

    async with running(guarded(authorize(evaluate, user=FromRequest(nobody)))) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()) == (401, {"detail": "who are you?"})


async def test_a_user_read_from_the_request_must_be_a_str():
    app = guarded(authorize(evaluate, user=FromRequest(lambda _request: None)))
    async with running(app, raises=True) as client:
        with pytest.raises(TypeError, match=r"^user must be a str"):
            await client.get("/")


def requested(app, user):
    """Returns a user's request as a handler gets it."""
    headers = [(b"x-user", user.encode())]
    return Request({"type": "http", "app": app, "method": "GET", "path": "/", "headers": headers})


async def test_awaited_by_hand_it_reads_each_request():
    app = FastAPI(lifespan=policy_cache_lifespan(NATIVE))
    may = authorize(evaluate, user=FromRequest(lambda request: request.headers["x-user"]))
    async with app.router.lifespan_context(app):
        for user in ("alice", "bob", "alice"):
            assert (await may(requested(app, user)))["asked"] == [user, "GET", "/", None]
        with pytest.raises(HTTPException, match="not your document"):
            await may(requested(app, "mallory"))


async def test_awaited_by_hand_it_takes_only_the_values_of_its_dependencies():
    app = FastAPI(lifespan=policy_cache_lifespan(NATIVE))
    may = authorize(evaluate, user=current_user, action="read")
    async with app.router.lifespan_context(app):
        asked = requested(app, "mallory")
        assert (await may(asked, user="alice"))["asked"] == ["alice", "read", "/", None]
        for wrong in ({}, {"user": "alice", "action": "write"}, {"user": "alice", "tag": "a"}):
            with pytest.raises(TypeError, match=r"pass the request, and by name user$"):
                await may(asked, **wrong)


async def test_the_ttl_that_the_evaluator_returns_counts():
    numbers = count(1)

    async def evaluate(*_asked):
        return Loaded({"allow": True, "number": next(numbers)}, ttl_seconds=0)

    async with running(guarded(authorize(evaluate, user="cron", policy="late"))) as client:
        for number in (1, 2):
            assert (await client.get("/")).json()["number"] == number, "it is not stored"


async def test_a_ttl_of_zero_stores_nothing():
    app = guarded(authorize(evaluate, user="cron", ttl_seconds=0))
    async with running(app) as client:
        first, second = [(await client.get("/")).json()["evaluation"] for _ in range(2)]
    assert second == first + 1


@pytest.mark.parametrize("nobody", [None, 7, b"alice"])
async def test_a_user_that_is_not_a_str_never_passes(nobody):
    app = guarded(authorize(evaluate, user=lambda: nobody))
    async with running(app, raises=True) as client:
        with pytest.raises(TypeError, match=r"^user must be a str.*HTTPException\(401\)"):
            await client.get("/")


@pytest.mark.parametrize("name", ["action", "resource", "sensitivity", "context", "tags"])
async def test_a_wrong_value_of_a_dependency_is_not_replaced_by_a_default(name):
    app = guarded(authorize(evaluate, user="cron", **{name: lambda: 7}))
    async with running(app) as client:
        assert (await client.get("/")).status_code == 500
    if name in {"action", "resource"}:
        app = guarded(authorize(evaluate, user="cron", **{name: lambda: None}))
        async with running(app) as client:
            assert (await client.get("/")).status_code == 500


@pytest.mark.parametrize(
    ("argument", "wrong", "error"),
    [
        ("evaluate", None, TypeError),
        ("user", None, TypeError),
        ("user", Depends(), TypeError),
        ("action", 7, TypeError),
        ("resource", ["a"], TypeError),
        ("context", {"hour": 3}, TypeError),
        ("sensitivity", 3, TypeError),
        ("tags", "bundle:1", TypeError),
        ("ttl_seconds", "soon", TypeError),
        ("ttl_seconds", -1, ValueError),
    ],
)
def test_a_wrong_argument_is_refused_when_authorize_is_called(argument, wrong, error):
    given = {"evaluate": evaluate, "user": current_user, argument: wrong}
    with pytest.raises(error, match=f"^{argument} must be "):
        authorize(**given)


def test_there_is_no_default_user():
    with pytest.raises(TypeError, match="user"):
        authorize(evaluate)


def test_none_as_the_dependency_of_admins_is_refused():
    with pytest.raises(TypeError, match=r"^admin must be a dependency \(a function"):
        policy_cache_router(admin=Depends())


# Lifespans, apps and sub-applications


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


# Overrides


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


# Redis


@pytest.fixture
def in_redis(own_redis):
    """A server for this test alone, and settings that use it for every user."""
    server = own_redis()
    # A busy machine is not an outage.
    patient = {"redis_connect_timeout": 2, "redis_command_timeout": 2}
    return server, CacheSettings(redis_url=server.url, **patient)


async def test_decisions_are_stored_in_redis_if_configured(in_redis):
    server, settings = in_redis
    async with running(create_app(settings)) as client:
        await read(client, "alice")
        [key] = server.command("KEYS", "sark-cache:1:*")
        assert ":alice:read:document%3A1:" in key
        answer = await client.get(f"{ROUTES}/health")
        assert answer.json()["backends"] == {"redis": "ok"}


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


# Missing packages


@pytest.mark.parametrize("package", ["fastapi", "pydantic_settings"])
def test_without_a_package_the_error_says_how_to_install_it(monkeypatch, package):
    for name in tuple(sys.modules):
        if name.startswith("sark_cache.fastapi") or name == "sark_cache.settings":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is missing: .*'sark-cache\[fastapi\]'"):
        importlib.import_module("sark_cache.fastapi")


def test_the_error_of_another_missing_module_is_unchanged(monkeypatch):
    for name in tuple(sys.modules):
        if name.startswith("sark_cache.fastapi"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    with pytest.raises(ModuleNotFoundError, match="starlette"):
        importlib.import_module("sark_cache.fastapi")


def test_prometheus_metrics_without_its_package_say_how_to_install_it(monkeypatch):
    for name in tuple(sys.modules):
        if name in {"sark_cache.fastapi.exposition", "sark_cache.instrumentation.prometheus"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"sark-cache\[prometheus\]"):
        policy_cache_router(prometheus=True)
    policy_cache_router()
