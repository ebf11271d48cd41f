"""The routes of the policy cache: health and metrics, and those of admins behind their sign-in."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from fastapi import APIRouter, Depends, Response

from sark_cache.fastapi.admin import admin_router
from sark_cache.fastapi.admission import only_admins
from sark_cache.fastapi.installation import InstallationDep, PolicyCacheDep
from sark_cache.fastapi.models import Health, Metrics, State
from sark_cache.fastapi.sources import Dependency

UNAVAILABLE: Final = 503


def policy_cache_router(
    prefix: str = "/policy-cache",
    *,
    admin: Dependency | None = None,
    prometheus: bool = False,
    tags: Sequence[str | Enum] = ("policy cache",),
) -> APIRouter:
    """The routes of the policy cache, for `app.include_router`.

    >>> app.include_router(policy_cache_router(admin=signed_in_admin))

    | route | |
    |---|---|
    | `GET /health` | 200 if every backend that this process uses can answer, else 503 |
    | `GET /metrics` | what this process counted, as JSON; how far features are rolled out |
    | `GET /metrics/prometheus` | the same for Prometheus; only if asked for |
    | `POST /invalidate` | revokes decisions |
    | `GET /rollouts`, `GET /rollouts/{feature}` | how far features are rolled out |
    | `PUT /rollouts/{feature}` | rolls one out so far |
    | `POST /rollback`, `POST /rollback/{feature}` | sets all of them, or one, to 0 % |

    From `POST /invalidate` on they are there only if `admin` is given, and then behind it. Those
    that change something need a JSON body or the header `X-Requested-With`, with any value: a page
    of another site cannot have an admin's browser send either.

    Health is for dashboards and alerts. Redis counts from the start if it is configured, since
    revocations have to reach it; a cache that never hits can always answer. An app whose Redis is
    away still serves, evaluating each request: to take it out of service for a 503 here, or to
    restart it, would make things worse.

    Health and metrics name no user and are open to everybody; to guard them, too, include the
    router with `dependencies=[Depends(...)]`.

    Args:
        prefix: What the paths begin with.
        admin: A dependency that lets admins pass and raises, a 401 or 403 say, for anybody else.
            What it returns is refused with a 403 if it is falsy, such as `False`, but not None: a
            dependency that only raises returns that. None: there are no admin routes.
        prometheus: Whether there is a route for Prometheus; takes the extra `[prometheus]`. Under
            several workers, see `sark_cache.instrumentation.prometheus`.
        tags: Those of the routes in the OpenAPI schema.

    Raises:
        ImportError: `prometheus` without the package for it; the message says how to get it.
        TypeError: `admin` is no dependency.
    """
    router = APIRouter(prefix=prefix, tags=list(tags))
    router.add_api_route("/health", health, responses={UNAVAILABLE: {"model": Health}})
    router.add_api_route("/metrics", metrics)
    if prometheus:
        from sark_cache.fastapi.exposition import exposition  # noqa: PLC0415 - an extra

        router.add_api_route("/metrics/prometheus", exposition, response_class=Response)
    if admin is not None:
        router.include_router(admin_router, dependencies=[Depends(only_admins(admin))])
    return router


async def health(cache: PolicyCacheDep, response: Response) -> Health:
    """Returns the health of each backend of this process; 503 if one does not answer."""
    backends: dict[str, State] = {}
    for each in cache.backends():
        backends[each.backend] = "ok" if await each.health_check() else "unavailable"
    if "unavailable" not in backends.values():
        return Health(status="ok", backends=backends, enabled=cache.enabled)
    response.status_code = UNAVAILABLE
    return Health(status="unavailable", backends=backends, enabled=cache.enabled)


async def metrics(cache: PolicyCacheDep, installation: InstallationDep) -> Metrics:
    """Returns the metrics of this process and the rollout percentages."""
    return Metrics(
        cache=cache.get_metrics(),
        cleanup=installation.cleanup.get_metrics(),
        rollouts=installation.flags.get_all_rollouts(),
    )
