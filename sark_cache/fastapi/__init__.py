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

**Sub-applications.** Starlette runs the lifespan of the outermost app alone. It serves each app
that is mounted in it at its start, and those mounted in these: `PolicyCacheDep`, `authorize` and
the router work there without a lifespan of their own. An app that it cannot see (wrapped in other
middleware, mounted through an included router or later) is entered by name, in the lifespan of the
outermost app: `async with policy_cache_lifespan()(app), policy_cache_lifespan()(other): yield`.

**Tests** replace what they like with `app.dependency_overrides`, as FastAPI has it of the app that
serves the route: `policy_cache` (what `PolicyCacheDep` asks), what `authorize` returned, or what it
was given as `user`, `action`, `resource` and so on.

Extra `[fastapi]`: FastAPI and pydantic-settings.
"""

try:
    from sark_cache.fastapi.authorization import FORBIDDEN, FromRequest, authorize
    from sark_cache.fastapi.installation import PolicyCacheDep, policy_cache
    from sark_cache.fastapi.lifespan import policy_cache_lifespan
    from sark_cache.fastapi.router import policy_cache_router
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
