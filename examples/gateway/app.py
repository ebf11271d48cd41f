"""A gateway that evaluates a real policy, and answers repeated requests from the cache.

Run it with `uvicorn app:create_app --factory`, or see it work with `nox -s demo`.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, FastAPI, HTTPException
from fastapi.requests import HTTPConnection
from pydantic import BaseModel

from engine import PolicyEngine
from sark_cache import CacheSettings
from sark_cache.fastapi import (
    FORBIDDEN,
    FromRequest,
    PolicyCacheDep,
    authorize,
    policy_cache_lifespan,
    policy_cache_router,
)


class Question(BaseModel):
    """A request for a decision: a user, an action, a resource and a context."""

    user: str
    action: str
    resource: str
    context: dict[str, Any] | None = None
    use_cache: bool = True
    """False evaluates the policy every time, to measure its cost."""


class Answer(BaseModel):
    """The decision, where it came from, how long it took in the handler, and in which process."""

    decision: dict[str, Any]
    source: Literal["cache", "policy"]
    microseconds: float
    worker: int
    """The id of the process that answered."""


# Plain functions of the request, which cost next to nothing: as dependencies of FastAPI these three
# would take longer than the handler.


def caller(request: HTTPConnection) -> str:
    """Returns the caller's id from a header. A real gateway would verify a token."""
    user = request.headers.get("x-user")
    if user is None:
        raise HTTPException(401, "who calls? say it in the header X-User")
    return user


def tool_in_path(request: HTTPConnection) -> str:
    """Returns the name of the called tool, the resource of the decision."""
    tool: str = request.path_params["tool"]
    return tool


def circumstances(request: HTTPConnection) -> dict[str, Any]:
    """Returns the context of the decision: the hour, and a second factor."""
    mfa = request.headers.get("x-mfa", "false")
    return {"hour": time.localtime().tm_hour, "mfa": mfa.lower() == "true"}


POLICY = "tools"
"""The name of the policy: its decisions are cached under it, and can be revoked by it."""

HEADERS: list[dict[str, Any]] = [
    {"in": "header", "name": "X-User", "required": True, "schema": {"type": "string"}},
    {"in": "header", "name": "X-Mfa", "schema": {"type": "boolean", "default": False}},
]
"""The headers that these functions read, for the OpenAPI schema."""


def create_app() -> FastAPI:
    """Returns the gateway as an ASGI app."""
    engine = PolicyEngine()
    # All users get the native cache. Other settings come from the environment: SARK_CACHE_...
    with_policy_cache = policy_cache_lifespan(CacheSettings(rust_cache_rollout_pct=100))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with closing(engine):
            async with with_policy_cache(app):
                yield

    app = FastAPI(title="sark-cache example gateway", lifespan=lifespan)
    app.include_router(policy_cache_router())

    may_call = authorize(
        engine.evaluate,
        user=FromRequest(caller),
        action="invoke",
        resource=FromRequest(tool_in_path),
        context=FromRequest(circumstances),
        policy=POLICY,
    )

    @app.post("/tools/{tool}/call", responses=FORBIDDEN, openapi_extra={"parameters": HEADERS})
    async def call_tool(
        tool: str,
        decision: Annotated[dict[str, Any], Depends(may_call)],
        parameters: Annotated[dict[str, Any] | None, Body()] = None,
    ) -> dict[str, Any]:
        removed = decision["remove_parameters"]
        passed = {name: value for name, value in (parameters or {}).items() if name not in removed}
        return {"tool": tool, "called_with": passed, "removed": removed}

    @app.post("/authorize")
    async def answer(question: Question, cache: PolicyCacheDep) -> Answer:
        asked = (question.user, question.action, question.resource)
        started = time.perf_counter()
        # All requests share one immutable decision: a hit copies nothing.
        known = None
        if question.use_cache:
            known = await cache.get_decision(*asked, question.context, policy=POLICY)
        if known is not None:
            microseconds = (time.perf_counter() - started) * 1e6
            return Answer(
                decision=known.to_dict(),
                source="cache",
                microseconds=microseconds,
                worker=os.getpid(),
            )
        begun = cache.stamp()  # a decision that is revoked from now on is not stored
        loaded = await engine.evaluate(*asked, question.context)
        if question.use_cache:
            ttl = loaded.ttl_seconds
            what = (*asked, loaded.decision, question.context, ttl)
            await cache.set(*what, stamp=begun, policy=POLICY)
        microseconds = (time.perf_counter() - started) * 1e6
        cache.record_opa_latency(microseconds / 1e3)
        decision = dict(loaded.decision)
        return Answer(
            decision=decision, source="policy", microseconds=microseconds, worker=os.getpid()
        )

    @app.post("/users/{user}/revoke")
    async def revoke(user: str, cache: PolicyCacheDep) -> dict[str, Any]:
        if user not in engine.users:
            raise HTTPException(404, f"no user {user!r}")
        engine.suspend(user)
        return {"revoked": user, "entries": await cache.invalidate(user_id=user)}

    return app
