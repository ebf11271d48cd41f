"""`authorize` accepts the forms that are usual in FastAPI, and refuses others when it is called."""

import threading
from itertools import count, repeat
from typing import Annotated
from unittest.mock import AsyncMock

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Security
from fastapi.security import SecurityScopes

import evaluators
from apps_in_process import NATIVE, running
from documents_app import current_user, evaluate
from evaluators import Blocking, Callable, Engine
from sark_cache.fastapi import FromRequest, PolicyCacheDep, authorize, policy_cache_lifespan
from sark_cache.settings import CacheSettings
from sark_cache.testing import allow_all, deny_all

POLICY = "documents_app:evaluate"
"""The policy of that app's evaluator."""


def guarded(dependency):
    """Returns an app with one route, which answers with the value of its dependency."""
    app = FastAPI(lifespan=policy_cache_lifespan(NATIVE))

    @app.get("/documents/{document}")
    async def answer(decision: Annotated[dict, Depends(dependency)]) -> dict:
        return decision

    @app.post("/forget/{tag}")
    async def forget(tag: str, cache: PolicyCacheDep) -> int:
        return await cache.invalidate(tags=[tag])

    return app


async def answered(dependency, user="alice"):
    """Returns the answer to a request behind a dependency."""
    async with running(guarded(dependency)) as client:
        return await client.get("/documents/1", headers={"x-user": user})


# Dependencies


def who_blocks(x_user: Annotated[str, Header()]) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return x_user


async def who_yields(x_user: Annotated[str, Header()]):
    yield x_user


def who_with_scopes(scopes: SecurityScopes, x_user: Annotated[str, Header()]) -> str:
    return f"{x_user} {scopes.scope_str}"


class Who(str):
    """A class as a dependency, whose instances are users."""

    __slots__ = ()

    def __new__(cls, x_user: Annotated[str, Header()]):
        return super().__new__(cls, x_user)


@pytest.mark.parametrize(
    ("user", "asked"),
    [
        (Depends(current_user), "alice"),
        (Annotated[str, Depends(current_user)], "alice"),
        (Annotated[str, "a note", Depends(current_user)], "alice"),
        (Annotated[Who, Depends()], "alice"),
        (Annotated[str, FromRequest(lambda request: request.headers["x-user"])], "alice"),
        (Security(who_with_scopes, scopes=["read"]), "alice read"),
        (Annotated[str, Security(who_with_scopes, scopes=["read"])], "alice read"),
        (who_blocks, "alice"),
        (who_yields, "alice"),
    ],
)
async def test_a_dependency_may_be_given_in_the_forms_of_fastapi(user, asked):
    answer = await answered(authorize(evaluate, user=user))
    assert answer.status_code == 200, answer.text
    assert answer.json()["asked"][0] == asked


@pytest.mark.parametrize("name", ["action", "resource", "context", "sensitivity", "tags"])
async def test_every_other_argument_may_be_given_in_the_forms_of_fastapi(name):
    brought = {"context": {"mfa": True}, "tags": ["bundle:1"]}.get(name, "public")
    found = Annotated[object, Depends(lambda: brought)]
    app = guarded(authorize(evaluate, user="cron", **{name: found}))
    async with running(app) as client:
        answer = await client.get("/documents/1")
        assert answer.status_code == 200, answer.text
        place = {"action": 1, "resource": 2, "context": 3}.get(name)
        assert place is None or answer.json()["asked"][place] == brought
        forgotten = (await client.post("/forget/bundle:1")).json()
        assert forgotten == (1 if name == "tags" else 0)


def test_a_dependency_s_parameters_are_in_the_schema():
    parameters = guarded(authorize(evaluate, user=Annotated[str, Depends(who_blocks)])).openapi()[
        "paths"
    ]["/documents/{document}"]["get"]["parameters"]
    assert {each["name"] for each in parameters} >= {"x-user"}


async def test_tests_may_replace_a_dependency_that_was_annotated():
    app = guarded(authorize(evaluate, user=Annotated[str, Depends(current_user)]))
    app.dependency_overrides[current_user] = lambda: "mallory"
    async with running(app) as client:
        assert (await client.get("/documents/1")).status_code == 403


def unnamed(*args, **kwargs):
    """Returns a dependency as decorators without `functools.wraps` leave it."""


REFUSED_SOURCES = [
    (Annotated[str, Header()], r"Annotated with Depends\(...\) or a FromRequest"),
    (Annotated[str, "x-user"], r"Annotated with Depends\(...\) or a FromRequest"),
    (Annotated[dict, Depends()], "that FastAPI can call, but dict has no signature"),
    (Depends(), r"a dependency \(a function or Depends\(...\)\), not NoneType"),
    (Depends(7), r"a dependency \(a function or Depends\(...\)\), not int"),
    (unnamed, r"that FastAPI can call, but unnamed takes \*args, .* functools.wraps$"),
    (Depends(unnamed), r"that FastAPI can call, but unnamed takes \*args"),
    (lambda **given: given, r"that FastAPI can call, but .*<lambda> takes \*\*given"),
    (AsyncMock(), r"that FastAPI can call, but .*AsyncMock takes \*args"),
    (dict, "that FastAPI can call, but dict has no signature: wrap it in a function"),
    (list[str], "a dependency"),
]


@pytest.mark.parametrize("argument", ["user", "action", "resource", "context", "tags"])
@pytest.mark.parametrize(("source", "message"), REFUSED_SOURCES)
def test_an_unusable_source_is_refused_when_authorize_is_called(argument, source, message):
    given = {"user": current_user, argument: source}
    with pytest.raises(TypeError, match=f"^{argument} must be .*{message}"):
        authorize(evaluate, **given)


def test_a_function_that_reads_the_request_must_not_be_async():
    with pytest.raises(TypeError, match=r"^read must be a plain function: use a dependency for an"):
        FromRequest(current_user)
    with pytest.raises(TypeError, match=r"^read must be a function of the request, not str"):
        FromRequest("x-user")


# Constants


@pytest.mark.parametrize(
    ("argument", "constant", "message"),
    [
        ("user", "u" * 8193, "user must be at most 8192 bytes, not 8193"),
        ("action", "é" * 4097, "action must be at most 8192 bytes, not 8194"),
        ("resource", "/" * 8193, "resource must be at most 8192 bytes, not 8193"),
        ("tags", map(str, range(65)), "tags must be at most 64"),
        ("tags", map(str, count()), "tags must be at most 64"),
        ("tags", repeat("a"), "tags must be at most 64"),
        ("tags", ["t" * 257], "a tag must be at most 256 bytes, not 257"),
        ("policy", "p" * 257, "policy must be at most 256 bytes, not 257"),
        ("sensitivity", "secret", "sensitivity must be one of critical, .* not 'secret'"),
        ("sensitivity", "", "sensitivity must be one of critical, .* not ''"),
    ],
)
def test_a_constant_above_a_limit_is_refused(argument, constant, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        authorize(evaluate, **{"user": "cron", argument: constant})


def test_constants_at_a_limit_are_accepted():
    tags = (f"{number:0256}" for number in range(64))
    authorize(evaluate, user="u" * 8192, resource="é" * 4096, tags=tags, policy="p" * 256)


async def test_tags_from_a_generator_are_read_once():
    app = guarded(authorize(evaluate, user="cron", tags=(tag for tag in ["bundle:1", "bundle:2"])))
    async with running(app) as client:
        for tag in ("bundle:1", "bundle:2"):
            first = (await client.get("/documents/1")).json()
            assert (await client.get("/documents/1")).json() == first
            assert (await client.post(f"/forget/{tag}")).json() == 1
            assert (await client.get("/documents/1")).json() != first


# Evaluators


@pytest.mark.parametrize("blocking", [evaluators.in_a_thread, evaluators.decides_late])
async def test_an_evaluator_that_is_not_async_runs_in_the_threadpool(blocking):
    answer = await answered(authorize(blocking, user=current_user))
    assert answer.json() == {"allow": True, "thread": True}


async def test_an_async_evaluator_beneath_a_decorator_runs_in_the_event_loop():
    answer = await answered(authorize(evaluators.decorated, user=current_user))
    assert answer.json() == {"allow": True, "thread": False}


async def test_an_awaitable_result_of_a_plain_function_is_awaited():
    brings = lambda *asked: evaluators.is_member(*asked)  # noqa: E731, PLW0108 - as it is written
    may = authorize(brings, user=current_user, policy="members")
    assert (await answered(may)).status_code == 200
    assert (await answered(may, "mallory")).json() == {"detail": "members only"}


@pytest.mark.parametrize("engine", [Engine(), Callable(), Blocking(), Engine().evaluate])
async def test_an_engine_may_be_an_object(engine):
    may = authorize(engine, user=current_user, policy="one user")
    assert (await answered(may)).status_code == 200
    assert (await answered(may, "bob")).status_code == 403


async def engine_of_app(request: Request):
    """Returns an object that the app made at its start, like an HTTP client."""
    return request.app.state.engine


BROUGHT = {
    "a dependency": Depends(engine_of_app),
    "an annotated dependency": Annotated[Engine, Depends(engine_of_app)],
    "read from the request": FromRequest(lambda request: request.app.state.engine),
}


@pytest.mark.parametrize("engine", [Engine(), Callable(), Blocking(), evaluators.is_member])
@pytest.mark.parametrize("brought", BROUGHT)
async def test_an_evaluator_may_come_from(brought, engine):
    app = guarded(authorize(BROUGHT[brought], user=current_user, policy="one user"))
    app.state.engine = engine
    async with running(app) as client:
        for _ in range(2):
            for user, status in (("alice", 200), ("bob", 403)):
                answer = await client.get("/documents/1", headers={"x-user": user})
                assert answer.status_code == status


async def test_a_test_replaces_all_evaluators_at_once():
    app = guarded(authorize(Depends(engine_of_app), user=current_user, policy="one user"))
    other = authorize(Depends(engine_of_app), user=current_user, action="write", policy="one user")
    app.get("/other", dependencies=[Depends(other)])(lambda: "written")
    app.dependency_overrides[engine_of_app] = lambda: evaluators.is_admin
    async with running(app) as client:
        for path in ("/documents/1", "/other"):
            assert (await client.get(path, headers={"x-user": "alice"})).status_code == 403
            assert (await client.get(path, headers={"x-user": "root"})).status_code == 200


@pytest.mark.parametrize(("replaced", "status"), [(allow_all, 200), (deny_all, 403)])
async def test_a_test_replaces_all_evaluators_of_the_process(replaced, status):
    app = guarded(authorize(evaluators.is_admin, user=current_user))
    engine = authorize(Depends(engine_of_app), user=current_user, policy="one user")
    app.get("/other", dependencies=[Depends(engine)])(lambda: "done")
    app.state.engine = Engine()
    async with running(app) as client:

        async def statuses():
            return [
                (await client.get(path, headers={"x-user": "alice"})).status_code
                for path in ("/documents/1", "/other")
            ]

        before = await statuses()
        with replaced():
            assert await statuses() == [status, status]
        assert await statuses() == before == [403, 200]


async def test_a_dependency_that_returns_no_evaluator_lets_no_user_pass():
    app = guarded(authorize(Depends(engine_of_app), user=current_user, policy="one user"))
    app.state.engine = None
    async with running(app) as client:
        assert (await client.get("/documents/1", headers={"x-user": "alice"})).status_code == 500


async def test_an_exception_of_the_evaluator_s_dependency_ends_the_request():
    async def away():
        raise HTTPException(503, "the policy engine is away")

    answer = await answered(authorize(Depends(away), user=current_user, policy="away"))
    assert (answer.status_code, answer.json()) == (503, {"detail": "the policy engine is away"})


async def test_a_call_without_an_evaluator_is_refused():
    for nothing in (None, "app:evaluate", 7, {}, object()):
        with pytest.raises(TypeError, match=r"^evaluate must be a function \(user_id, action, "):
            authorize(nothing, user="cron", policy="none")


@pytest.mark.parametrize(
    "evaluate",
    [
        Engine,
        lambda request: request,
        lambda _user, _action, _resource: {},
        lambda _user, _action, _resource, _context, _more: {},
    ],
)
def test_an_evaluator_with_other_parameters_is_refused(evaluate):
    with pytest.raises(TypeError, match=r"^evaluate must be a function \(user_id, action, reso"):
        authorize(evaluate, user="cron", policy="none")


async def test_a_callback_for_refreshes_need_not_be_async():
    refreshed = threading.Event()

    def revalidate(*asked):
        refreshed.set()
        return {"allow": True, "asked": asked}

    settings = CacheSettings(rust_cache_rollout_pct=100, use_optimized_ttl=False, cache_ttl=0.5)
    app = FastAPI(lifespan=policy_cache_lifespan(settings, revalidate={POLICY: revalidate}))
    critical = authorize(evaluate, user="cron", sensitivity="critical")
    app.get("/", dependencies=[Depends(critical)])(lambda: None)
    async with running(app) as client:
        while not refreshed.is_set():
            assert (await client.get("/")).status_code == 200
