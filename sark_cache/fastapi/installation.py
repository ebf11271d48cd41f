"""Where an app keeps its policy cache, and how its routes find it: one attribute of the app.

Of the app, not of `app.state`, in which Starlette takes 0.6 µs to find something, as long as a hit.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isawaitable
from typing import Annotated, Final

from fastapi import Depends
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Mount

from sark_cache.cleanup import CacheCleanupTask
from sark_cache.flags import FeatureFlagManager
from sark_cache.plain import type_name
from sark_cache.routing import SelectedPolicyCache

ATTRIBUTE: Final = "_sark_cache"


@dataclass(frozen=True, slots=True)
class Installation:
    """What the routes of an app use."""

    cache: SelectedPolicyCache
    flags: FeatureFlagManager
    cleanup: CacheCleanupTask


@contextmanager
def installed(app: Starlette, installation: Installation) -> Generator[None]:
    """Gives it to an app and the apps mounted in it, unless they have one, and takes it back."""
    served = [one for one in (app, *_mounted(app.routes)) if not hasattr(one, ATTRIBUTE)]
    for one in served:
        setattr(one, ATTRIBUTE, installation)
    try:
        yield
    finally:
        for one in served:
            delattr(one, ATTRIBUTE)


async def installation(connection: HTTPConnection) -> Installation:
    """What the app has that serves this request."""
    return _installation_in(connection.app)


InstallationDep = Annotated[Installation, Depends(installation)]


async def policy_cache(connection: HTTPConnection) -> SelectedPolicyCache:
    """The policy cache of the app that serves this request.

    Raises:
        RuntimeError: The app has none; the message says how to give it one.
    """
    return _installation_in(connection.app).cache


PolicyCacheDep = Annotated[SelectedPolicyCache, Depends(policy_cache)]
"""The policy cache, for a path operation or a dependency: `async def read(cache: PolicyCacheDep)`.

In tests, `app.dependency_overrides[policy_cache]` says what it is: a function without arguments,
since `authorize` asks it, too.
"""


def policy_cache_of(connection: HTTPConnection) -> SelectedPolicyCache | None:
    """What `PolicyCacheDep` brings, without what FastAPI takes for a dependency; None: replaced."""
    app = connection.scope["app"]
    overrides = getattr(app, "dependency_overrides", None)
    if overrides and policy_cache in overrides:
        return None
    return _installation_in(app).cache


async def replaced_policy_cache(connection: HTTPConnection) -> SelectedPolicyCache:
    """What a test has put in the place of `policy_cache`, a function without arguments, brings."""
    replacement = connection.app.dependency_overrides[policy_cache]()
    cache: SelectedPolicyCache = await replacement if isawaitable(replacement) else replacement
    if not hasattr(cache, "get_or_load"):
        message = (
            "dependency_overrides[policy_cache] must be a function without arguments that returns "
            f"a policy cache (no yield), not one that returns {type_name(cache)}"
        )
        raise TypeError(message)
    return cache


def _installation_in(app: Starlette) -> Installation:
    found: Installation | None = getattr(app, ATTRIBUTE, None)
    if found is None:
        message = (
            "this app has no policy cache, or is not running: make it with "
            "FastAPI(lifespan=policy_cache_lifespan()), or enter policy_cache_lifespan()(app) in a "
            "lifespan of your own; for an app inside another one, in that of the outermost"
        )
        raise RuntimeError(message)
    return found


def _mounted(routes: Iterable[BaseRoute]) -> Iterator[Starlette]:
    for route in routes:
        if isinstance(route, Mount) and isinstance(route.app, Starlette):
            yield route.app
            yield from _mounted(route.app.routes)
