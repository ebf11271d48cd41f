"""FastAPI: the policy cache for the life of an app, authorization as a dependency, admin routes.

>>> from fastapi import Depends, FastAPI
>>> from sark_cache.fastapi import FORBIDDEN, authorize, policy_cache_lifespan, policy_cache_router
>>> app = FastAPI(lifespan=policy_cache_lifespan())  # from the environment: SARK_CACHE_...
>>> app.include_router(policy_cache_router())
>>> may = authorize(ask_policy_engine, user=current_user)
>>> @app.get("/documents/{document}", dependencies=[Depends(may)], responses=FORBIDDEN)
... async def read(document: str) -> Document: ...

**One process has one policy cache.** Its backends are the caches that `create_policy_cache` and
`get_policy_cache` return, and it uses the feature flags of the process. All apps of a process share
them, from the start of the first app to the end of the last one. So all apps must have the same
settings: an app with other settings fails at its start. Threads and connections are created at the
start of an app, never at import. So an app may be loaded before its workers are forked, as with
`gunicorn --preload`: each worker has its own policy cache, and the workers share the decisions in
Redis. If several apps of a process use Redis, run them in one event loop.

**Sub-applications.** Starlette runs only the lifespan of the outermost app. All apps and routers
that are mounted in it use its policy cache: `PolicyCacheDep`, `authorize` and the router work at
any depth, inside `Host` routes and middleware, and in apps that are mounted after the start. If
something other than a router of Starlette calls an app, pass that app explicitly in the lifespan
that runs: `async with with_policy_cache(app), with_policy_cache(other): yield`, where
`with_policy_cache` is `policy_cache_lifespan()`.

**Tests** can replace dependencies with the `dependency_overrides` of the app that serves the route:
`policy_cache`, which `PolicyCacheDep` uses; the dependency that `authorize` returned; and each
dependency that was passed to `authorize`, such as `user`.

Extra `[fastapi]`: FastAPI and pydantic-settings.
"""

try:
    from sark_cache.fastapi.authorization import FORBIDDEN, Authorization, authorize
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
    "Authorization",
    "FromRequest",
    "PolicyCacheDep",
    "authorize",
    "policy_cache",
    "policy_cache_lifespan",
    "policy_cache_router",
]
