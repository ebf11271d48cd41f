"""FastAPI: the routes for everybody and for admins, and their schema, here and on a real server."""

import pytest
from fastapi import Depends
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from apps_in_process import NATIVE, REVOKE_ALL, ROUTES, by, read, running
from documents_app import ADMIN, create_app
from sark_cache.fastapi import (
    policy_cache_router,
)

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
    ("given", "removed"),
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
async def test_an_admin_revokes_decisions_that_match_all_given_fields(client, given, removed):
    for user in ("alice", "bob"):
        for document in ("1", "2"):
            await read(client, user, document)
    await client.put("/documents/1", headers=by("alice"))
    answer = await client.post(f"{ROUTES}/invalidate", json=given, headers=ADMIN)
    assert (answer.status_code, answer.json()) == (200, {"invalidated": removed})


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


def test_none_as_the_dependency_of_admins_is_refused():
    with pytest.raises(TypeError, match=r"^admin must be a dependency \(a function"):
        policy_cache_router(admin=Depends())
