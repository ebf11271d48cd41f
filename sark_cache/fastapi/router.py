"""The routes of the policy cache: health and metrics, and routes that only admins may use."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from fastapi import APIRouter, Depends, Response

from sark_cache.fastapi.admin import admin_router
from sark_cache.fastapi.admission import only_admins
from sark_cache.fastapi.installation import InstallationDep, PolicyCacheDep
from sark_cache.fastapi.models import Health, HealthState, Metrics
from sark_cache.fastapi.sources import Dependency

UNAVAILABLE: Final = 503


def policy_cache_router(
    prefix: str = "/policy-cache",
    *,
    admin: Dependency | None = None,
    prometheus: bool = False,
    tags: Sequence[str | Enum] = ("policy cache",),
) -> APIRouter:
    """Returns the routes of the policy cache, for `app.include_router`.

    >>> app.include_router(policy_cache_router(admin=signed_in_admin))

    | Route | Effect |
    |---|---|
    | `GET /health` | 200 if every backend that this process uses can answer, else 503 |
    | `GET /metrics` | the metrics of this process and the percentages of rollouts, as JSON |
    | `GET /metrics/prometheus` | the same for Prometheus; exists only with `prometheus=True` |
    | `POST /invalidate` | revokes decisions |
    | `GET /rollouts`, `GET /rollouts/{feature}` | shows all percentages of rollouts, or one |
    | `PUT /rollouts/{feature}` | sets the percentage of a rollout |
    | `POST /rollback`, `POST /rollback/{feature}` | sets all percentages, or one, to 0 |

    The last four rows exist only if `admin` is given, which protects them. A request that changes
    something needs a JSON body or the header `X-Requested-With`, with any value. A page of another
    site cannot make an admin's browser send these.

    Use `/health` for dashboards and alerts. If Redis is configured, its state counts even before a
    request has used it, because revocations have to reach it. While Redis does not answer, an app
    still answers requests, but may have to evaluate each of them. So do not remove or restart a
    process because of a 503 here.

    Health and metrics contain no user ids, and every caller may read them. To protect them, include
    the router with `dependencies=[Depends(...)]`.

    Args:
        prefix: The beginning of all paths.
        admin: A dependency that returns for admins, and raises for all other callers, for example
            a 401 or 403. A false result, such as `False`, is answered with a 403. The result
            None is accepted, because a dependency that only raises returns None. If `admin` itself
            is None, there are no admin routes.
        prometheus: If True, there is a route for Prometheus, which needs the extra `[prometheus]`.
            For several workers, see `sark_cache.instrumentation.prometheus`.
        tags: The tags of the routes in the OpenAPI schema.

    Raises:
        ImportError: `prometheus` is True, but its package is not installed.
        TypeError: `admin` is not a dependency.
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
    backends: dict[str, HealthState] = {}
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
