"""A gateway that asks a real policy, and answers repeats from the cache.

Run it with `uvicorn app:create_app --factory`, or see it work with `nox -s demo`.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel

from engine import PolicyEngine, read
from sark_cache import Loaded, RustPolicyCache

NANOSECONDS_PER_MICROSECOND = 1_000
NANOSECONDS_PER_MILLISECOND = 1_000_000


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


class Gateway:
    """The users, the policy and the cache in front of it."""

    def __init__(self) -> None:
        self.users = read("users")
        self.engine = PolicyEngine()
        self.cache = RustPolicyCache(max_size=10_000)

    async def authorize(self, question: Question) -> Answer:
        """Answers from the cache, or asks the policy, once for all who ask at the same time."""
        started = time.perf_counter_ns()
        source: Literal["cache", "policy"] = "cache"

        async def ask_policy() -> Loaded:
            nonlocal source
            source = "policy"
            return await self._ask_policy(question)

        if question.use_cache:
            decision = await self.cache.get_or_load(
                question.user, question.action, question.resource, ask_policy, question.context
            )
        else:
            decision = dict((await ask_policy()).decision)
        elapsed = time.perf_counter_ns() - started
        return Answer(
            decision=decision,
            source=source,
            microseconds=elapsed / NANOSECONDS_PER_MICROSECOND,
        )

    async def _ask_policy(self, question: Question) -> Loaded:
        started = time.perf_counter_ns()
        decision = await self.engine.evaluate(
            self.users.get(question.user), question.action, question.resource, question.context
        )
        elapsed = time.perf_counter_ns() - started
        self.cache.record_opa_latency(elapsed / NANOSECONDS_PER_MILLISECOND)
        # How sensitive the tool is, only the policy knows.
        return Loaded(decision, ttl_seconds=self.cache.OPTIMIZED_TTL[decision["sensitivity"]])


def gateway(request: Request) -> Gateway:
    """The gateway of the app that serves this request."""
    found: Gateway = request.app.state.gateway
    return found


GatewayDep = Annotated[Gateway, Depends(gateway)]


async def authorized_call(
    tool: str,
    gateway: GatewayDep,
    x_user: Annotated[str, Header()],
    x_mfa: Annotated[bool, Header()] = False,  # noqa: FBT002 - a header, not a flag argument
) -> dict[str, Any]:
    """The decision for this tool call; 403 with its reason if it is no."""
    context = {"hour": datetime.now().astimezone().hour, "mfa": x_mfa}
    question = Question(user=x_user, action="invoke", resource=tool, context=context)
    decision = (await gateway.authorize(question)).decision
    if not decision["allow"]:
        raise HTTPException(403, decision["reason"])
    return decision


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens the gateway with the app and closes it with it."""
    app.state.gateway = Gateway()
    try:
        async with app.state.gateway.cache:
            yield
    finally:
        app.state.gateway.engine.close()


def create_app() -> FastAPI:
    """The gateway as an ASGI app."""
    app = FastAPI(title="sark-cache example gateway", lifespan=lifespan)

    @app.post("/authorize")
    async def authorize(question: Question, gateway: GatewayDep) -> Answer:
        return await gateway.authorize(question)

    @app.post("/tools/{tool}/call")
    async def call_tool(
        tool: str,
        decision: Annotated[dict[str, Any], Depends(authorized_call)],
        parameters: Annotated[dict[str, Any] | None, Body()] = None,
    ) -> dict[str, Any]:
        removed = decision["remove_parameters"]
        passed = {name: value for name, value in (parameters or {}).items() if name not in removed}
        return {"tool": tool, "called_with": passed, "removed": removed}

    @app.post("/users/{user}/revoke")
    async def revoke(user: str, gateway: GatewayDep) -> dict[str, Any]:
        if user not in gateway.users:
            raise HTTPException(404, f"no user {user!r}")
        gateway.users[user]["suspended"] = True
        return {"revoked": user, "entries": await gateway.cache.invalidate(user_id=user)}

    @app.get("/metrics")
    async def metrics(gateway: GatewayDep) -> dict[str, int | float]:
        return gateway.cache.get_metrics()

    return app
