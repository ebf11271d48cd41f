"""FastAPI: the policy cache for the life of an app, authorization as a dependency, admin routes.

>>> from fastapi import Depends, FastAPI
>>> from sark_cache.fastapi import authorize, policy_cache_lifespan, policy_cache_router
>>> app = FastAPI(lifespan=policy_cache_lifespan())  # from the environment: SARK_CACHE_...
>>> app.include_router(policy_cache_router())
>>> may = authorize(ask_policy_engine, user=current_user)
>>> @app.get("/documents/{document}", dependencies=[Depends(may)], responses=FORBIDDEN)
... async def read(document: str) -> Document: ...

**One process, one policy cache.** The caches, the feature flags and what looks for Redis are the
process's, as everywhere in this package: `create_policy_cache` and `get_policy_cache` give the same
ones. Several apps of a process share them from the first one's start to the last one's end, and so
have to agree on the settings: one that brings others fails at its start. Threads and connections
are made at the start, never at import, so an app may be loaded before its workers are forked, as
`gunicorn --preload` does: each worker has a policy cache of its own, and they share what is in
Redis. Apps of one process that use Redis belong into one event loop.

**Sub-applications.** Starlette runs the lifespan of the outermost app alone. Its policy cache
serves everything within it: `PolicyCacheDep`, `authorize` and the router work in mounted apps and
routers, at any depth, behind `Host` and middleware, and in what is mounted after the start. Only an
app that is called by something else than a router of Starlette is entered by name, in the lifespan
of the app that runs: `async with with_policy_cache(app), with_policy_cache(other): yield`, where
`with_policy_cache` is `policy_cache_lifespan()`.

**Tests** replace what they like with `app.dependency_overrides`, as FastAPI has it of the app that
serves the route: `policy_cache` (what `PolicyCacheDep` asks), what `authorize` returned, or what it
was given as `evaluate`, `user`, `action`, `resource` and so on.

Extra `[fastapi]`: FastAPI and pydantic-settings.
"""

try:
    from sark_cache.fastapi.authorization import FORBIDDEN, authorize
    from sark_cache.fastapi.installation import PolicyCacheDep, policy_cache
    from sark_cache.fastapi.lifespan import policy_cache_lifespan
    from sark_cache.fastapi.router import policy_cache_router
    from sark_cache.fastapi.sources import FromRequest
except ModuleNotFoundError as _error:
    if _error.name not in {"fastapi", "pydantic_settings"}:
        raise
    _message = f"{_error.name} is missing: get it with `pip install 'sark-cache[fastapi]'`"
    raise ImportError(_message) from _error

__all__ = [
    "FORBIDDEN",
    "FromRequest",
    "PolicyCacheDep",
    "authorize",
    "policy_cache",
    "policy_cache_lifespan",
    "policy_cache_router",
]
