"""FastAPI: the policy cache of the outermost app serves the apps mounted within it."""

from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Host, Mount, Route, Router

from apps_in_process import NATIVE, client_of
from documents_app import may
from sark_cache.fastapi import PolicyCacheDep, policy_cache_lifespan, policy_cache_router

ALICE = {"x-user": "alice"}


def guarded():
    """Returns an app without a lifespan that uses the policy cache in every possible way."""
    app = FastAPI()
    app.include_router(policy_cache_router("/cache"))

    @app.get("/document")
    async def read(decision: Annotated[dict, Depends(may)], cache: PolicyCacheDep) -> dict:
        return {"asked": decision["asked"], "size": await cache.size()}

    return app


def outermost(**given):
    return FastAPI(lifespan=policy_cache_lifespan(NATIVE), **given)


def mounted(sub, path="/sub"):
    app = outermost()
    app.mount(path, sub)
    return app


def in_a_mount():
    return mounted(guarded()), "/sub"


def in_a_mount_in_a_mount():
    return mounted(mounted(guarded())), "/sub/sub"


def in_a_mounted_router():
    return mounted(Router([Mount("/inner", guarded())])), "/sub/inner"


def in_a_mounted_router_of_fastapi():
    router = APIRouter()
    router.mount("/inner", guarded())
    return mounted(router), "/sub/inner"


def in_an_included_router():
    router = APIRouter()
    router.mount("/inner", guarded())
    app = outermost()
    app.include_router(router, prefix="/included")
    return app, "/included/inner"


def in_middleware():
    return mounted(CORSMiddleware(GZipMiddleware(guarded()), allow_origins=["*"])), "/sub"


def in_a_mount_with_middleware():
    sub = guarded()

    @sub.middleware("http")
    async def between(request, answer):
        return await answer(request)

    return mounted(Starlette(routes=[Mount("/inner", sub)])), "/sub/inner"


def behind_a_host():
    app = outermost()
    app.router.routes.append(Host("app", guarded()))
    return app, ""


def in_an_asgi_function():
    sub = guarded()

    async def wrapper(scope, receive, send):
        await sub(dict(scope), receive, send)

    return mounted(wrapper), "/sub"


def in_an_app_of_starlette():
    lifespan = policy_cache_lifespan(NATIVE)
    return Starlette(routes=[Mount("/sub", guarded())], lifespan=lifespan), "/sub"


def wrapped_as_a_whole():
    return GZipMiddleware(mounted(guarded())), "/sub"


@asynccontextmanager
async def running(app):
    """Starts an app and yields a client, with the routes that the app had at its start."""
    lifespan_of = getattr(app, "app", app)
    async with lifespan_of.router.lifespan_context(lifespan_of), client_of(app) as client:
        yield client


NESTED = [
    in_a_mount,
    in_a_mount_in_a_mount,
    in_a_mounted_router,
    in_a_mounted_router_of_fastapi,
    in_an_included_router,
    in_middleware,
    in_a_mount_with_middleware,
    behind_a_host,
    in_an_asgi_function,
    in_an_app_of_starlette,
    wrapped_as_a_whole,
]


@pytest.mark.parametrize("nested", NESTED)
async def test_the_policy_cache_is_found_through_layers_in_between(nested):
    app, path = nested()
    async with running(app) as client:
        answer = await client.get(f"{path}/document", headers=ALICE)
        assert answer.status_code == 200, answer.text
        assert answer.json()["asked"][:2] == ["alice", "GET"]
        assert answer.json()["size"] == 1
        assert (await client.get(f"{path}/cache/health")).status_code == 200


async def test_an_app_mounted_after_the_start_finds_it_too():
    app = outermost()
    async with running(app) as client:
        app.mount("/late", guarded())
        app.mount("/later", Router([Mount("/inner", guarded())]))
        app.router.routes.append(Host("late", guarded()))
        for path in ("/late", "/later/inner", "http://late"):
            answer = await client.get(f"{path}/document", headers=ALICE)
            assert answer.status_code == 200, answer.text


async def test_a_middleware_of_the_outermost_app_finds_it_before_any_route_is_known():
    app = mounted(guarded())

    @app.middleware("http")
    async def authorized(request, answer):
        decision = await may(Request(request.scope), user="alice")
        response = await answer(request)
        response.headers["x-reason"] = decision["reason"]
        return response

    async with running(app) as client:
        answer = await client.get("/sub/document", headers=ALICE)
        assert answer.headers["x-reason"] == "owner"


async def test_a_plain_route_of_starlette_may_await_it_by_hand():
    async def read(request):
        return JSONResponse(await may(request, user="alice"))

    app = mounted(Router([Route("/document", read)]))
    async with running(app) as client:
        assert (await client.get("/sub/document")).json()["asked"][2] == "/sub/document"


async def test_an_app_without_a_lifespan_has_none_even_if_another_app_runs():
    alone = guarded()
    async with running(outermost()), client_of(alone) as client:
        assert (await client.get("/document", headers=ALICE)).status_code == 500


async def test_an_app_mounted_in_two_apps_has_one_until_the_last_of_them_stops():
    shared = guarded()
    first, second = mounted(shared), mounted(shared)
    async with running(first) as one:
        async with running(second) as other:
            for client in (one, other):
                assert (await client.get("/sub/document", headers=ALICE)).status_code == 200
        assert (await one.get("/sub/document", headers=ALICE)).status_code == 200
    async with client_of(first) as client:
        assert (await client.get("/sub/document", headers=ALICE)).status_code == 500


async def test_an_app_that_runs_twice_has_one_until_it_stops_for_the_last_time():
    app = mounted(guarded())
    async with running(app):
        async with running(app) as client:
            assert (await client.get("/sub/document", headers=ALICE)).status_code == 200
        assert (await client_of(app).get("/sub/document", headers=ALICE)).status_code == 200
    assert (await client_of(app).get("/sub/document", headers=ALICE)).status_code == 500


@pytest.mark.parametrize("app", [None, "app", CORSMiddleware(outermost())])
async def test_an_object_that_is_not_an_app_is_refused_at_the_start(app):
    with pytest.raises(TypeError, match=r"^app must be the app that runs"):
        async with policy_cache_lifespan(NATIVE)(app):
            pass
