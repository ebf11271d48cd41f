"""The result of `get_decision` can be returned from a route, whole and in parts."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from pydantic import BaseModel

from sark_cache import Decision
from sark_cache.fastapi import PolicyCacheDep, policy_cache_lifespan
from sark_cache.settings import CacheSettings

NATIVE = CacheSettings(rust_cache_rollout_pct=100)
FIELDS = {
    "allow": True,
    "reason": "owner",
    "obligations": ["log", {"mask": ["ssn"]}],
    "subject": {"roles": ["analyst"], "teams": {"a": [1, None]}},
}
ASKED = ("alice", "read", "doc:1")


class Answer(BaseModel):
    """A model of the app."""

    decision: Decision
    obligations: Any


@pytest.fixture
async def client():
    app = FastAPI(lifespan=policy_cache_lifespan(NATIVE))

    async def found(cache):
        await cache.set(*ASKED, FIELDS)
        return await cache.get_decision(*ASKED)

    @app.get("/decision")
    async def decision(cache: PolicyCacheDep) -> Decision:
        return await found(cache)

    @app.get("/perhaps")
    async def perhaps(cache: PolicyCacheDep, *, known: bool) -> Decision | None:
        return await found(cache) if known else None

    @app.get("/unannotated")
    async def unannotated(cache: PolicyCacheDep):
        return await found(cache)

    @app.get("/dict")
    async def as_dict(cache: PolicyCacheDep) -> dict[str, Any]:
        return await found(cache)

    @app.get("/nested")
    async def nested(cache: PolicyCacheDep) -> dict:
        return {"found": [await found(cache)]}

    @app.get("/model")
    async def model(cache: PolicyCacheDep) -> Answer:
        decision = await found(cache)
        return Answer(decision=decision, obligations=decision["obligations"])

    @app.get("/values/{name}")
    async def values(name: str, cache: PolicyCacheDep) -> Any:
        return (await found(cache))[name]

    @app.post("/decision")
    async def taken(decision: Decision) -> bool:
        return decision.allow

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


@pytest.mark.parametrize("path", ["/decision", "/unannotated", "/dict", "/perhaps?known=yes"])
async def test_a_decision_is_answered_as_the_json_that_was_stored(client, path):
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (200, FIELDS)


async def test_no_decision_is_null(client):
    assert (await client.get("/perhaps?known=no")).json() is None


@pytest.mark.parametrize("name", FIELDS)
async def test_each_value_of_a_decision_is_answered_as_json(client, name):
    assert (await client.get(f"/values/{name}")).json() == FIELDS[name]


async def test_a_decision_inside_another_value_is_answered_as_json(client):
    assert (await client.get("/nested")).json() == {"found": [FIELDS]}
    answer = {"decision": FIELDS, "obligations": FIELDS["obligations"]}
    assert (await client.get("/model")).json() == answer


async def test_a_request_body_may_be_a_decision(client):
    assert (await client.post("/decision", json=FIELDS)).json() is True
    assert (await client.post("/decision", json={"allow": "yes"})).json() is False
    assert (await client.post("/decision", json=["allow"])).status_code == 422


async def test_the_schema_is_valid(client):
    schema = (await client.get("/openapi.json")).json()
    validate(schema)
    answered = schema["paths"]["/decision"]["get"]["responses"]["200"]["content"]
    assert answered["application/json"]["schema"]["type"] == "object"
