"""FastAPI: only an allowed user passes a route or opens a WebSocket, here and on a real server."""

import json

import pytest

from apps_in_process import NATIVE, ROUTES, by, read, running
from documents_app import DECISIONS, create_app


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
