"""The app that the tests of `sark_cache.fastapi` serve: documents behind a policy, on any server.

`python documents_app.py PORT` serves it with uvicorn; gunicorn takes `documents_app:create_app()`.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from contextlib import asynccontextmanager
from itertools import count
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Response, WebSocket
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from sark_cache.fastapi import (
    FORBIDDEN,
    authorize,
    policy_cache_lifespan,
    policy_cache_router,
)

ADMIN = {"authorization": "Bearer sesame"}

DECISIONS = {
    "mallory": {"allow": False, "reason": "not your document"},
    "allowed 'yes'": {"allow": "yes", "reason": "not a boolean"},
    "allowed 1": {"allow": 1},
    "allowed [true]": {"allow": [True], "reason": {"code": 17}},
    "allowed null": {"allow": None, "reason": ""},
    "not allowed, nor denied": {"result": True},
}
"""The policy's decisions by user; every other user is allowed."""

evaluations = count(1)


async def evaluate(user_id, action, resource, context):
    """Evaluates the policy; the decision has the request and the number of evaluations so far."""
    if user_id == "broken":
        raise OSError(user_id)
    if user_id == "unavailable":
        raise HTTPException(503, "the policy engine is away")
    if user_id == "undecided":
        return None
    decision = DECISIONS.get(user_id, {"allow": True, "reason": "owner"})
    asked = [user_id, action, resource, context]
    return {**decision, "asked": asked, "by": os.getpid(), "evaluation": next(evaluations)}


async def current_user(
    name: Annotated[str | None, Depends(APIKeyHeader(name="x-user", auto_error=False))],
) -> str:
    """Returns the user that the request claims to be."""
    if name is None:
        raise HTTPException(401, "who are you?")
    return name


async def document_in_path(document: str) -> str:
    """Returns a resource that a dependency computes."""
    return f"document:{document}"


async def second_factor(x_mfa: Annotated[bool, Header()] = False) -> dict[str, Any]:  # noqa: FBT002
    """Returns a context that a dependency computes."""
    return {"mfa": x_mfa}


async def admin(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
) -> None:
    """Admits requests with the admin's secret."""
    if credentials.credentials != "sesame":
        raise HTTPException(403, "not an admin")


may_read = authorize(
    evaluate,
    user=current_user,
    action="read",
    resource=document_in_path,
    context=second_factor,
    tags=["bundle:1"],
)
may = authorize(evaluate, user=current_user)


def create_app(settings=None, *, with_admin=True, revalidate=None):
    """Creates the app."""
    with_policy_cache = policy_cache_lifespan(settings, revalidate=revalidate)
    threads_at_import = threading.active_count()

    @asynccontextmanager
    async def lifespan(app):
        async with with_policy_cache(app):
            yield
        sys.stdout.write(f"{json.dumps(left_over())}\n")
        sys.stdout.flush()

    app = FastAPI(lifespan=lifespan)
    app.include_router(policy_cache_router(admin=admin if with_admin else None, prometheus=True))

    @app.middleware("http")
    async def say_who_answers(request, answer):
        response = await answer(request)
        response.headers["x-worker"] = str(os.getpid())
        return response

    @app.get("/documents/{document}", responses=FORBIDDEN)
    async def read(decision: Annotated[dict[str, Any], Depends(may_read)]) -> dict[str, Any]:
        return decision

    @app.put("/documents/{document}", responses=FORBIDDEN)
    async def write(
        document: str, decision: Annotated[dict[str, Any], Depends(may)]
    ) -> dict[str, Any]:
        return {**decision, "written": document}

    @app.websocket("/live")
    async def live(websocket: WebSocket, decision: Annotated[dict[str, Any], Depends(may)]):
        await websocket.accept()
        await websocket.send_json(decision)
        await websocket.close()

    @app.get("/threads-at-import")
    async def threads() -> Response:
        return Response(str(threads_at_import))

    return app


def left_over():
    """Returns the tasks and threads of the policy cache that are left in this process."""
    tasks = [task.get_name() for task in asyncio.all_tasks()]
    threads = [thread.name for thread in threading.enumerate()]
    return [name for name in (*tasks, *threads) if name.startswith("sark-cache")]


if __name__ == "__main__":
    # uvicorn sends itself the signal that ended it. As an exit, this shows objects that were not
    # closed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    uvicorn.run(create_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
