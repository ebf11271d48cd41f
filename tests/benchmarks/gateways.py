"""The gateways that are measured over HTTP: one app, whose one route is guarded in several ways.

`python gateways.py LOOP HTTP CORE` serves each on its own port and prints the ports. All of them
run in one process, on one event loop and one core, and take turns, so that conditions are equal.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Body, Depends, FastAPI, HTTPException, Request

GATEWAY = Path(__file__).parents[2] / "examples" / "gateway"
sys.path.insert(0, str(GATEWAY))

from app import caller, circumstances, tool_in_path  # noqa: E402
from engine import PolicyEngine  # noqa: E402
from sark_cache import CacheSettings  # noqa: E402
from sark_cache.asgi import PolicyMiddleware, Rule  # noqa: E402
from sark_cache.fastapi import (  # noqa: E402
    FromRequest,
    PolicyCacheDep,
    authorize,
    policy_cache_lifespan,
    policy_cache_router,
)

Parameters = Annotated[dict[str, Any] | None, Body()]

engine = PolicyEngine()


def asked(request):
    """Returns the request to the policy, computed in the same way for all of them."""
    return caller(request), "invoke", tool_in_path(request), circumstances(request)


def pass_only_if_allowed(decision):
    if decision["allow"] is not True:
        raise HTTPException(403, decision["reason"])


async def nothing() -> None:
    """Does nothing: the cost of a dependency in FastAPI."""


async def evaluated(request: Request) -> None:
    """Authorizes without a cache."""
    pass_only_if_allowed((await engine.evaluate(*asked(request))).decision)


async def look_up(request, cache):
    """Authorizes by hand: returns a shared decision, or else evaluates and stores one."""
    user, action, tool, context = asked(request)
    decision = await cache.get_decision(user, action, tool, context)
    if decision is not None:
        pass_only_if_allowed(decision)
        return
    begun = cache.stamp()
    loaded = await engine.evaluate(user, action, tool, context)
    await cache.set(user, action, tool, loaded.decision, context, loaded.ttl_seconds, stamp=begun)
    pass_only_if_allowed(loaded.decision)


def as_dependency(read):
    """Returns the same function as a dependency of FastAPI."""

    async def dependency(request: Request):
        return read(request)

    return dependency


with_dependencies = authorize(
    engine.evaluate,
    user=as_dependency(caller),
    action="invoke",
    resource=as_dependency(tool_in_path),
    context=as_dependency(circumstances),
    policy="tools",
)
as_in_the_example = authorize(
    engine.evaluate,
    user=FromRequest(caller),
    action="invoke",
    resource=FromRequest(tool_in_path),
    context=FromRequest(circumstances),
    policy="tools",
)


def called(tool, request, parameters):
    """Returns the same answer for all; the user has to be known even where everybody is allowed."""
    return {"tool": tool, "called_by": caller(request), "called_with": parameters or {}}


async def call_tool(tool: str, request: Request, parameters: Parameters = None) -> dict[str, Any]:
    return called(tool, request, parameters)


async def call_tool_after_look_up(
    tool: str, request: Request, cache: PolicyCacheDep, parameters: Parameters = None
) -> dict[str, Any]:
    await look_up(request, cache)
    return called(tool, request, parameters)


async def call_tool_if_allowed(
    tool: str, request: Request, parameters: Parameters = None
) -> dict[str, Any]:
    await as_in_the_example(request)
    return called(tool, request, parameters)


def gateway(handler, *guards):
    """Returns the app, whose one handler is behind these dependencies."""
    app = FastAPI(lifespan=policy_cache_lifespan(CacheSettings(rust_cache_rollout_pct=100)))
    app.post("/tools/{tool}/call", dependencies=[Depends(guard) for guard in guards])(handler)
    app.include_router(policy_cache_router())
    return app


def header(scope, name):
    """Returns a header of a request."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def circumstances_of(scope):
    """Returns the context of the decision, as `circumstances` does."""
    mfa = header(scope, b"x-mfa") or "false"
    return {"hour": time.localtime().tm_hour, "mfa": mfa.lower() == "true"}


def behind_middleware(app):
    """Returns the app behind `PolicyMiddleware`."""
    return PolicyMiddleware(
        app,
        [
            Rule("/policy-cache/{page}", public=True),
            Rule("/tools/{tool}/call", ["POST"], "invoke", "{tool}"),
        ],
        evaluate=engine.evaluate,
        user=lambda scope: header(scope, b"x-user"),
        context=circumstances_of,
        policy="tools",
    )


GATEWAYS = {
    "baseline: no authorization": gateway(call_tool),
    "no authorization, an empty dependency": gateway(call_tool, nothing),
    "cached: authorize() as a dependency": gateway(call_tool, as_in_the_example),
    "cached: authorize() that takes three dependencies": gateway(call_tool, with_dependencies),
    "cached: authorize() awaited in the handler": gateway(call_tool_if_allowed),
    "cached: PolicyMiddleware": behind_middleware(gateway(call_tool)),
    "cached: get_decision() in the handler": gateway(call_tool_after_look_up),
    "no cache: the policy evaluates every request": gateway(call_tool, evaluated),
}


async def serve(http):
    """Serves all gateways until the process ends."""
    servers = {}
    for name, app in GATEWAYS.items():
        config = uvicorn.Config(app, port=0, http=http, log_level="warning")
        servers[name] = uvicorn.Server(config)
    serving = [asyncio.create_task(server.serve()) for server in servers.values()]
    while not all(server.started for server in servers.values()):
        await asyncio.sleep(0.01)
    ports = {
        name: server.servers[0].sockets[0].getsockname()[1] for name, server in servers.items()
    }
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await asyncio.gather(*serving)


if __name__ == "__main__":
    loop, http, core = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    config = uvicorn.Config("", loop=loop)
    with closing(engine), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve(http))
