"""FastAPI: each argument of `authorize` may be constant, a dependency, or read from the request."""

from itertools import count
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request

from apps_in_process import NATIVE, by, guarded, running
from documents_app import current_user, evaluate
from sark_cache import Loaded
from sark_cache.fastapi import (
    FromRequest,
    PolicyCacheDep,
    authorize,
    policy_cache_lifespan,
)


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
