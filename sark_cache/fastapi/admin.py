"""The routes for administrators: they revoke decisions and change rollouts.

They exist only behind the given dependency. A change of a rollout waits for Redis, up to a second,
so these routes are plain functions, which FastAPI runs in threads.
"""

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from sark_cache.errors import FlagError, InvalidationError
from sark_cache.fastapi.admission import not_forged
from sark_cache.fastapi.installation import Installation, InstallationDep, PolicyCacheDep
from sark_cache.fastapi.models import (
    Failure,
    Feature,
    Invalidated,
    Invalidation,
    Percentage,
    Rollout,
    Rollouts,
)

NamedFeature = Annotated[Feature, Path(description="Such as `rust_cache`.")]
Force = Annotated[
    bool,
    Query(description="Accepts a name that was never set before, which may be misspelt."),
]

MOST_NAMED: Final = 10
"""The largest number of features that an error lists."""

UNCONFIRMED: Final[dict[int | str, dict[str, Any]]] = {
    503: {"model": Failure, "description": "Redis does not confirm it; `detail` says what holds."}
}

TOO_MANY: Final[dict[int | str, dict[str, Any]]] = {
    409: {"model": Failure, "description": "There are too many features; `detail` says the cure."}
}

UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Failure, "description": "No feature has this name; `detail` lists them."}
}

CHANGES: Final = [Depends(not_forged)]
"""The check of every route that changes something."""


class AdminRoute(APIRoute):
    """A route that answers with 422 whatever is wrong with a request.

    The 422 of FastAPI repeats what was sent, which fails with a 500 where JSON cannot hold it: a
    lone surrogate or NaN. Errors of this route have `type`, `loc` and `msg` alone.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns a handler that repeats nothing."""
        handle = super().get_route_handler()

        async def handle_safely(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise RequestValidationError(
                    [_without_input(each) for each in error.errors()]
                ) from None

        return handle_safely


admin_router: Final = APIRouter(route_class=AdminRoute)


@admin_router.post("/invalidate", dependencies=CHANGES, responses=UNCONFIRMED)
async def invalidate(cache: PolicyCacheDep, invalidation: Invalidation) -> Invalidated:
    """Revokes the decisions that match all that is given, in every backend."""
    with _confirmed():
        if invalidation.pattern is not None:
            died = await cache.invalidate_pattern(invalidation.pattern)
        else:
            died = await cache.invalidate(**invalidation.matching())
    return Invalidated(invalidated=died)


@admin_router.get("/rollouts")
def rollouts(installation: InstallationDep) -> Rollouts:
    """Returns the rollout percentage of each feature."""
    return Rollouts(rollouts=installation.flags.get_all_rollouts())


@admin_router.get("/rollouts/{feature}")
def rollout(feature: NamedFeature, installation: InstallationDep) -> Rollout:
    """Returns the rollout percentage of a feature; 0 if it was never set."""
    percentage = installation.flags.get_rollout_pct(feature)
    return Rollout(feature=feature, percentage=percentage)


@admin_router.put(
    "/rollouts/{feature}", dependencies=CHANGES, responses={**UNKNOWN, **TOO_MANY, **UNCONFIRMED}
)
def roll_out(
    feature: NamedFeature,
    wanted: Percentage,
    installation: InstallationDep,
    *,
    force: Force = False,
) -> Rollout:
    """Rolls a feature out so far: at once in this process, within a second in all others."""
    if not force:
        _require_known(feature, installation)
    with _confirmed(), _within_bounds():
        installation.flags.set_rollout_pct(feature, wanted.percentage)
    return Rollout(feature=feature, percentage=wanted.percentage)


@admin_router.post("/rollback", dependencies=CHANGES, responses=UNCONFIRMED)
def roll_all_back(installation: InstallationDep) -> Rollouts:
    """Sets every feature that was rolled out to 0 %."""
    with _confirmed():
        installation.flags.rollback_all()
    return rollouts(installation)


@admin_router.post(
    "/rollback/{feature}", dependencies=CHANGES, responses={**UNKNOWN, **TOO_MANY, **UNCONFIRMED}
)
def roll_back(
    feature: NamedFeature, installation: InstallationDep, *, force: Force = False
) -> Rollout:
    """Sets a feature to 0 %."""
    if not force:
        _require_known(feature, installation)
    with _confirmed(), _within_bounds():
        installation.flags.rollback(feature)
    return Rollout(feature=feature, percentage=0)


def _require_known(feature: str, installation: Installation) -> None:
    """Refuses a name that has no percentage in this process and none in Redis.

    Raises:
        HTTPException: The name is unknown. It may be misspelt.
    """
    installation.flags.get_rollout_pct(feature)  # reads a name from Redis that was set elsewhere
    known = sorted(installation.flags.get_all_rollouts())
    if feature in known:
        return
    named = ", ".join(known[:MOST_NAMED]) + (", ..." if known[MOST_NAMED:] else "")
    raise HTTPException(
        404,
        f"no feature is called {feature}. There are: {named}. "
        "To set a new one, add ?force=true to the address.",
    )


@contextmanager
def _confirmed() -> Generator[None]:
    """Answers with 503 what could not be confirmed."""
    try:
        yield
    except (InvalidationError, FlagError) as error:
        raise HTTPException(503, str(error)) from error


@contextmanager
def _within_bounds() -> Generator[None]:
    """Answers with 409 that there are too many features; all else was checked before."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(409, str(error)) from error


def _without_input(error: Any) -> dict[str, Any]:  # noqa: ANN401 - as pydantic has it
    """Returns a validation error without the input that it repeats."""
    loc = [_encodable(part) if isinstance(part, str) else part for part in error["loc"]]
    return {"type": error["type"], "loc": loc, "msg": _encodable(error["msg"])}


def _encodable(text: str) -> str:
    r"""Returns a text in which a lone surrogate stands as `\ud800`."""
    return text.encode(errors="backslashreplace").decode()
