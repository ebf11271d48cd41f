"""The routes for administrators: they revoke decisions and change rollouts.

The dependency `admin` protects them all. A change of a rollout waits for Redis, up to a second. So
these routes are plain functions, which FastAPI runs in threads.
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
    RolloutPercentages,
)
from sark_cache.rollout.unknown import UnknownFeature

NamedFeature = Annotated[Feature, Path(description="The name of a feature, such as `rust_cache`.")]
Force = Annotated[
    bool,
    Query(
        description="If true, a name that was never set is accepted. Otherwise it is refused, "
        "because it may be misspelt."
    ),
]

UNCONFIRMED: Final[dict[int | str, dict[str, Any]]] = {
    503: {"model": Failure, "description": "Redis did not confirm the change; see `detail`."}
}

TOO_MANY: Final[dict[int | str, dict[str, Any]]] = {
    409: {"model": Failure, "description": "There are too many features; `detail` says what to do."}
}

UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Failure, "description": "No feature has this name; `detail` lists the names."}
}

CHANGES: Final = [Depends(not_forged)]
"""The check of every route that changes something."""


class AdminRoute(APIRoute):
    """A route that answers every invalid request with a 422.

    The 422 of FastAPI repeats the input. If JSON cannot hold the input, because it is NaN or has a
    lone surrogate, FastAPI answers with a 500 instead. The errors of this route have only `type`,
    `loc` and `msg`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns a handler whose 422 does not repeat the input."""
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
    """Revokes the decisions that match every given field, in every backend."""
    with _confirmed():
        if invalidation.pattern is not None:
            removed = await cache.invalidate_pattern(invalidation.pattern)
        elif not invalidation.matching():
            before = cache.metrics.invalidations
            await cache.clear()
            removed = cache.metrics.invalidations - before
        else:
            removed = await cache.invalidate(**invalidation.matching())
    return Invalidated(invalidated=removed)


@admin_router.get("/rollouts")
def rollouts(installation: InstallationDep) -> RolloutPercentages:
    """Returns the rollout percentage of each feature."""
    return RolloutPercentages(rollouts=installation.flags.get_all_rollouts())


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
    """Sets the percentage of a feature: at once in this process, within a second in all others."""
    if not force:
        _require_known(feature, installation)
    with _confirmed(), _within_bounds():
        installation.flags.set_rollout_pct(feature, wanted.percentage)
    return Rollout(feature=feature, percentage=wanted.percentage)


@admin_router.post("/rollback", dependencies=CHANGES, responses=UNCONFIRMED)
def roll_all_back(installation: InstallationDep) -> RolloutPercentages:
    """Sets the percentage of every feature to 0."""
    with _confirmed():
        installation.flags.rollback_all()
    return rollouts(installation)


@admin_router.post(
    "/rollback/{feature}", dependencies=CHANGES, responses={**UNKNOWN, **TOO_MANY, **UNCONFIRMED}
)
def roll_back(
    feature: NamedFeature, installation: InstallationDep, *, force: Force = False
) -> Rollout:
    """Sets the percentage of a feature to 0."""
    if not force:
        _require_known(feature, installation)
    with _confirmed(), _within_bounds():
        installation.flags.rollback(feature)
    return Rollout(feature=feature, percentage=0)


def _require_known(feature: str, installation: Installation) -> None:
    """Refuses a name that has no percentage in this process and none in Redis.

    Raises:
        HTTPException: The name is unknown and may be misspelt, or Redis did not answer.
    """
    forced = "add ?force=true to the URL."
    try:
        if installation.flags.is_known(feature):
            return
    except FlagError as error:
        raise HTTPException(503, f"{error}. To set it anyway, {forced}") from error
    unknown = UnknownFeature(feature, sorted(installation.flags.get_all_rollouts()))
    raise HTTPException(404, f"{unknown.message} To set a new feature, {forced}")


@contextmanager
def _confirmed() -> Generator[None]:
    """Answers with 503 if Redis did not confirm the change."""
    try:
        yield
    except (InvalidationError, FlagError) as error:
        raise HTTPException(503, str(error)) from error


@contextmanager
def _within_bounds() -> Generator[None]:
    """Answers with 409 if there are too many features. All other errors were checked before."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(409, str(error)) from error


def _without_input(error: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's type
    """Returns a validation error without the input."""
    loc = [_encodable(part) if isinstance(part, str) else part for part in error["loc"]]
    return {"type": error["type"], "loc": loc, "msg": _encodable(error["msg"])}


def _encodable(text: str) -> str:
    r"""Returns a text in which each lone surrogate is written as an escape, such as `\ud800`."""
    return text.encode(errors="backslashreplace").decode()
