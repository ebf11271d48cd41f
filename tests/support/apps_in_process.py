"""Apps that run in this process, their clients, and the requests of their users."""

from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI

from sark_cache.fastapi import policy_cache_lifespan
from sark_cache.settings import CacheSettings

NATIVE = CacheSettings(rust_cache_rollout_pct=100)
ROUTES = "/policy-cache"
REVOKE_ALL = {"everything": True}


@asynccontextmanager
async def running(app, *, raises=False):
    """Starts an app in this process and yields a client; exceptions are raised if `raises`."""
    async with app.router.lifespan_context(app), client_of(app, raises=raises) as client:
        yield client


def client_of(app, *, raises=False):
    """Returns a client of an app, whether or not the app runs."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    return httpx.AsyncClient(transport=transport, base_url="http://app")


def by(user):
    """Returns the headers of a user's request."""
    return {"x-user": user}


async def read(client, user, document="1", **headers):
    """Reads a document as a user."""
    return await client.get(f"/documents/{document}", headers={**by(user), **headers})


def guarded(dependency, settings=NATIVE):
    """Returns an app with one route, which answers with the value of its dependency."""
    app = FastAPI(lifespan=policy_cache_lifespan(settings))

    @app.get("/")
    async def answer(decision: Annotated[dict, Depends(dependency)]) -> dict:
        return decision

    return app
