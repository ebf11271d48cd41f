"""The policy cache of an app, stored in an attribute of the app, where its routes find it.

It is not stored in `app.state`, because a look-up there takes 0.6 µs, as long as a hit. The
attribute is also set on the app's router. Starlette stores the router of the outermost app in each
request, and keeps it through every mount, `Host` and middleware. So all mounted apps find the
policy cache there.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isawaitable
from typing import Annotated, Any, Final

from fastapi import Depends
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Router

from sark_cache._core import arguments
from sark_cache._core.json import type_name
from sark_cache.cleanup import CacheCleanupTask
from sark_cache.rollout.manager import FeatureFlagManager
from sark_cache.selection.selected import SelectedPolicyCache

ATTRIBUTE: Final = "_sark_cache"


@dataclass(frozen=True, slots=True)
class Installation:
    """The objects that the routes of one app use."""

    cache: SelectedPolicyCache
    flags: FeatureFlagManager
    cleanup: CacheCleanupTask


@contextmanager
def installed(app: Starlette | Router, installation: Installation) -> Generator[None]:
    """Gives an installation to an app, and to all apps mounted in it, within the block.

    If an app runs twice at once, as it may in tests, it has the installation that came last.

    Raises:
        TypeError: `app` is not an app of Starlette or FastAPI.
    """
    places = _places(app)
    for place in places:
        vars(place).setdefault(ATTRIBUTE, []).append(installation)
    try:
        yield
    finally:
        for place in places:
            getattr(place, ATTRIBUTE).remove(installation)


async def installation(connection: HTTPConnection) -> Installation:
    """Returns the installation of the app that serves a request."""
    return _installation_for(connection)


InstallationDep = Annotated[Installation, Depends(installation)]


async def policy_cache(connection: HTTPConnection) -> SelectedPolicyCache:
    """Returns the policy cache of the app that serves a request.

    Raises:
        RuntimeError: The app has no policy cache. The message says how to create it.
    """
    return _installation_for(connection).cache


PolicyCacheDep = Annotated[SelectedPolicyCache, Depends(policy_cache)]
"""The policy cache, for a path operation or a dependency: `async def read(cache: PolicyCacheDep)`.

In a test, set `app.dependency_overrides[policy_cache]` to a function that returns another cache.
The function must have no arguments, because `authorize` calls it, too.
"""


async def cache_for(connection: HTTPConnection) -> SelectedPolicyCache:
    """Returns what `PolicyCacheDep` would, without the time that FastAPI takes for it.

    Raises:
        TypeError: A test overrides `policy_cache` with a function that returns something else.
        RuntimeError: The app has no policy cache.
    """
    overrides = getattr(connection.scope.get("app"), "dependency_overrides", None)
    if not overrides or policy_cache not in overrides:
        return _installation_for(connection).cache
    replacement = overrides[policy_cache]()
    cache: SelectedPolicyCache = await replacement if isawaitable(replacement) else replacement
    if not hasattr(cache, "get_or_load"):
        message = (
            "dependency_overrides[policy_cache] must be a function without arguments that returns "
            f"a policy cache (no yield), not one that returns {type_name(cache)}"
        )
        raise TypeError(message)
    return cache


def _installation_for(connection: HTTPConnection) -> Installation:
    """Returns the installation of the app that serves a request, or else of the outermost app.

    Raises:
        RuntimeError: Neither app has one.
    """
    scope = connection.scope
    for place in (scope.get("app"), scope.get("router")):
        installations: list[Installation] | None = getattr(place, ATTRIBUTE, None)
        if installations:
            return installations[-1]
    message = (
        "this app has no policy cache, or is not running: create it with "
        "FastAPI(lifespan=policy_cache_lifespan()), or enter policy_cache_lifespan()(app) in "
        "your own lifespan. If the app is mounted in another one, do this in the outermost app"
    )
    raise RuntimeError(message)


def _places(app: Any) -> list[Starlette | Router]:  # noqa: ANN401 - any object that runs a lifespan
    if isinstance(app, Starlette):
        return [app, app.router]
    if isinstance(app, Router):
        return [app]
    takes = "the app that runs, a FastAPI, Starlette or Router (if a Router runs alone, pass it)"
    return arguments.refuse("app", takes, app)
