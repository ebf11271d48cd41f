"""The example gateway: a real policy over real HTTP, and a cache with revocations."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "gateway"


@pytest.fixture(scope="module", autouse=True)
def example_on_path():
    """Makes the example's modules importable, as uvicorn's --app-dir does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        yield


@pytest.fixture
async def client():
    from app import create_app

    app = create_app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield client


async def ask(client, user, resource, action="invoke", **more):
    question = {"user": user, "action": action, "resource": resource, **more}
    response = await client.post("/authorize", json=question)
    response.raise_for_status()
    return response.json()


DAY = {"hour": 10, "mfa": True}

RULES = [
    # user, tool, action, context, allowed, reason
    ("alice-1", "dataset-search", "invoke", None, True, "granted by role analyst"),
    ("nobody", "dataset-search", "invoke", DAY, False, "unknown user"),
    ("alice-1", "no-such-tool", "invoke", DAY, False, "unknown tool"),
    ("alice-1", "dataset-search", "configure", DAY, False, "no role of the user may configure"),
    ("admin", "critical", "invoke", DAY, True, "granted by role admin"),
    ("admin", "critical", "invoke", {"hour": 10}, False, "multi-factor authentication"),
    ("admin", "critical", "invoke", {"hour": 10, "mfa": False}, False, "multi-factor"),
    (
        "admin",
        "critical",
        "invoke",
        {"hour": 3, "mfa": True},
        False,
        r"the tool is open from \d+ to",
    ),
    ("admin", "critical", "invoke", {"mfa": True}, False, "the tool is open from"),
    ("suspended", "dataset-search", "invoke", DAY, False, "user is suspended|no role"),
]


def resolved(user, tool):
    """Returns a user and a tool of the data files that fit a description."""
    from engine import read

    users, tools = read("users"), read("tools")
    by_description = {
        "admin": lambda: next(name for name, u in users.items() if "admin" in u["roles"]),
        "suspended": lambda: next(name for name, u in users.items() if u["suspended"]),
        "critical": lambda: next(n for n, t in tools.items() if t["sensitivity"] == "critical"),
    }
    return tuple(by_description.get(name, lambda name=name: name)() for name in (user, tool))


@pytest.mark.parametrize(("user", "tool", "action", "context", "allowed", "reason"), RULES)
async def test_the_policy_decides_and_the_cache_serves_its_decision(
    client, user, tool, action, context, allowed, reason
):
    user, tool = resolved(user, tool)
    first = await ask(client, user, tool, action, context=context)
    assert first["source"] == "policy"
    assert first["decision"]["allow"] is allowed
    assert re.search(reason, first["decision"]["reason"])
    second = await ask(client, user, tool, action, context=context)
    assert second["source"] == "cache"
    assert second["decision"] == first["decision"]


async def test_a_revoked_user_is_denied_by_the_policy_at_once(client):
    await ask(client, "alice-1", "dataset-search")
    await ask(client, "alice-1", "dataset-search", context=DAY)
    await ask(client, "ada-1", "dataset-search")
    response = await client.post("/users/alice-1/revoke")
    assert response.json() == {"revoked": "alice-1", "entries": 2}
    answer = await ask(client, "alice-1", "dataset-search")
    assert (answer["source"], answer["decision"]["allow"]) == ("policy", False)
    assert (await ask(client, "ada-1", "dataset-search"))["source"] == "cache"
    assert (await client.post("/users/nobody/revoke")).status_code == 404


async def call(client, user, *, mfa):
    """Calls a confidential tool with two secret parameters and one that is not."""
    return await client.post(
        "/tools/invoice-search/call",
        json={"iban": "DE02", "token": "t0k3n", "limit": 3},
        headers={"x-user": user, "x-mfa": str(mfa)},
    )


async def test_a_tool_call_is_guarded_by_the_decision(client):
    denied = await call(client, "vera-1", mfa=False)
    assert denied.status_code == 403
    assert denied.json() == {"detail": "multi-factor authentication is needed"}
    assert (await call(client, "vera-1", mfa=True)).status_code == 200
    assert (await call(client, "nobody", mfa=True)).status_code == 403
    assert (await client.post("/tools/invoice-search/call", json={})).status_code == 401


async def test_a_tool_sees_only_the_parameters_that_its_caller_may_pass(client):
    manager = (await call(client, "vera-1", mfa=True)).json()
    assert manager["called_with"] == {"limit": 3}
    assert manager["removed"] == ["iban", "token"]
    admin = (await call(client, "bela-2", mfa=True)).json()
    assert admin["called_with"] == {"iban": "DE02", "token": "t0k3n", "limit": 3}


async def test_the_policy_is_evaluated_every_time_if_the_cache_is_disabled(client):
    for _ in range(2):
        answer = await ask(client, "alice-1", "dataset-search", use_cache=False)
        assert answer["source"] == "policy"
    metrics = (await client.get("/policy-cache/metrics")).json()["cache"]
    assert (metrics["total_requests"], metrics["size"]) == (0, 0)
    assert metrics["avg_opa_latency_ms"] > 0


def demo(*arguments):
    """Runs the demo, and returns what it printed."""
    command = [sys.executable, str(EXAMPLE / "demo.py"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_demo_succeeds_and_shows_its_steps():
    printed = demo("--requests", "400", "--clients", "3")
    for promised in (
        "policy evaluation, in the handler",
        "cache hit, in the handler",
        "HTTP request, without the cache",
        "hit rate",
        "evictions",
        "alice-1 is allowed by the cache",
        "alice-1 is denied by the policy: user is suspended",
    ):
        assert promised in printed


@pytest.mark.usefixtures("server_available")
def test_the_demo_with_several_workers_shows_that_a_revocation_reaches_all():
    printed = demo("--workers", "3")
    for promised in (
        "alice-1 is allowed by the cache of each of the 3 workers",
        "the next request is denied in all 3 workers",
        "then served nothing",
        "the server answers again, and so do the caches",
    ):
        assert promised in " ".join(printed.split())


def test_the_demo_has_a_help_text():
    command = [sys.executable, str(EXAMPLE / "demo.py")]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "--serve" in shown.stdout
    wrong = subprocess.run(
        [*command, "--clients", "0"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "--clients at least 1" in wrong.stderr
