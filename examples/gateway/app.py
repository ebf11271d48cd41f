"""A gateway that asks a real policy, and answers repeats from the cache.

Run it with `uvicorn app:create_app --factory`, or see it work with `nox -s demo`.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

from engine import PolicyEngine
from sark_cache import CacheSettings, Loaded
from sark_cache.fastapi import (
    FORBIDDEN,
    PolicyCacheDep,
    authorize,
    policy_cache_lifespan,
    policy_cache_router,
)


class Question(BaseModel):
    """May this user do this?"""

    user: str
    action: str
    resource: str
    context: dict[str, Any] | None = None
    use_cache: bool = True
    """False asks the policy every time, to see what that costs."""


class Answer(BaseModel):
    """The decision, where it came from, and how long it took in the handler."""

    decision: dict[str, Any]
    source: Literal["cache", "policy"]
    microseconds: float


async def caller(x_user: Annotated[str, Header()]) -> str:
    """Who calls: a real gateway would ask a token."""
    return x_user


async def circumstances(x_mfa: Annotated[bool, Header()] = False) -> dict[str, Any]:  # noqa: FBT002
    """What the decision depends on besides: the hour, and a second factor."""
    return {"hour": datetime.now().astimezone().hour, "mfa": x_mfa}


async def tool_in_path(tool: str) -> str:
    """What is called."""
    return tool


def create_app() -> FastAPI:
    """The gateway as an ASGI app."""
    engine = PolicyEngine()
    # The native cache for everybody; the rest is as the environment says: SARK_CACHE_...
    with_policy_cache = policy_cache_lifespan(CacheSettings(rust_cache_rollout_pct=100))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with closing(engine):
            async with with_policy_cache(app):
                yield

    app = FastAPI(title="sark-cache example gateway", lifespan=lifespan)
    app.include_router(policy_cache_router())

    may_call = authorize(
        engine.evaluate, user=caller, action="invoke", resource=tool_in_path, context=circumstances
    )

    @app.post("/tools/{tool}/call", responses=FORBIDDEN)
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
        source: Literal["cache", "policy"] = "cache"

        async def evaluate() -> Loaded:
            nonlocal source
            source = "policy"
            return await engine.evaluate(*asked, question.context)

        started = time.perf_counter()
        if question.use_cache:
            decision = await cache.get_or_load(*asked, evaluate, question.context)
        else:
            decision = dict((await evaluate()).decision)
        microseconds = (time.perf_counter() - started) * 1e6
        if source == "policy":
            cache.record_opa_latency(microseconds / 1e3)
        return Answer(decision=decision, source=source, microseconds=microseconds)

    @app.post("/users/{user}/revoke")
    async def revoke(user: str, cache: PolicyCacheDep) -> dict[str, Any]:
        if user not in engine.users:
            raise HTTPException(404, f"no user {user!r}")
        engine.users[user]["suspended"] = True
        return {"revoked": user, "entries": await cache.invalidate(user_id=user)}

    return app
