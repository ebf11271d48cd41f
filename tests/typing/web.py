"""Uses of the names of `sark_cache.fastapi`, for type checkers. Checked by `nox -s typing`.

Not called `fastapi.py`, which type checkers would take for the package.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, assert_type

from fastapi import APIRouter, Depends, FastAPI
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer

from sark_cache import CacheSettings, Loaded, SelectedPolicyCache
from sark_cache.fastapi import (
    FORBIDDEN,
    Authorization,
    FromRequest,
    PolicyCacheDep,
    authorize,
    policy_cache,
    policy_cache_lifespan,
    policy_cache_router,
)
from sark_cache.types import JSONObject


async def evaluate(
    user_id: str, action: str, resource: str, context: Mapping[str, Any] | None
) -> JSONObject:
    return {"allow": user_id == action == resource, "context": context}


async def decide_late(*request: object) -> Loaded:
    return Loaded({"allow": bool(request)}, ttl_seconds=60, tags=["bundle:42"])


async def current_user() -> str:
    return "alice"


async def documents() -> list[JSONObject]:
    return [{"id": "1"}]


async def evaluate_all(
    requests: list[tuple[str, str, str, Mapping[str, Any] | None]],
) -> list[JSONObject]:
    return [{"allow": user == resource} for user, _, resource, _ in requests]


async def circumstances() -> Mapping[str, Any]:
    return {"mfa": True}


class Engine:
    def evaluate(
        self, user_id: str, action: str, resource: str, context: Mapping[str, Any] | None
    ) -> JSONObject:
        return {"allow": user_id == action == resource, "context": context}


User = Annotated[str, Depends(current_user)]


def evaluators() -> None:
    authorize(Engine().evaluate, user="cron", policy="documents")  # not async
    authorize(Engine(), user="cron", policy="documents")
    authorize(Depends(Engine), user="cron", policy="documents")
    authorize(FromRequest(lambda request: request.app.state.engine), user="cron", policy="docs")


def authorizations() -> None:
    authorize(evaluate, user=Depends(current_user), tags=(tag for tag in ["bundle:42"]))
    authorize(evaluate, user=User)  # pyright: ignore[reportArgumentType] - it has no type for this
    may = authorize(evaluate, user=current_user)
    assert_type(may, Authorization)
    assert_type(
        may.filter(documents, key=lambda document: document["id"], evaluate_many=evaluate_all),
        Callable[..., Coroutine[object, None, list[Any]]],
    )
    authorize(
        decide_late,
        user=HTTPBearer(),
        action="read",
        resource=current_user,
        context=circumstances,
        sensitivity="critical",
        ttl_seconds=1.5,
        tags={"bundle:42"},
    )
    authorize(evaluate, user="cron", sensitivity=current_user, tags=current_user)
    authorize(
        evaluate,
        user=FromRequest(lambda request: request.headers["x-user"]),
        resource=FromRequest(lambda request: request.path_params["document"]),
        context=FromRequest(lambda request: {"mfa": "x-mfa" in request.headers}),
    )


def from_requests(source: FromRequest) -> None:
    assert_type(source.read, Callable[[HTTPConnection], Any])


def apps() -> FastAPI:
    plain = FastAPI(lifespan=policy_cache_lifespan())
    with_policy_cache = policy_cache_lifespan(
        CacheSettings(rust_cache_rollout_pct=100), revalidate=decide_late
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with with_policy_cache(app), with_policy_cache(plain):
            yield

    app = FastAPI(lifespan=lifespan, responses=FORBIDDEN)
    may = authorize(evaluate, user=current_user)

    @app.get("/documents/{document}", responses=FORBIDDEN)
    async def read(
        document: str, decision: Annotated[JSONObject, Depends(may)], cache: PolicyCacheDep
    ) -> int:
        assert_type(cache, SelectedPolicyCache)
        return await cache.invalidate(resource=document) if decision else 0

    app.dependency_overrides[policy_cache] = SelectedPolicyCache
    del read
    return app


def routers() -> None:
    assert_type(policy_cache_router(), APIRouter)
    policy_cache_router("/internal/cache", admin=HTTPBearer(), prometheus=True, tags=["internal"])
