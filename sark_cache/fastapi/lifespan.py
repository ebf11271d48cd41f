"""The lifespan of the policy cache: created at the start of an app, closed at its end."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette

from sark_cache.cleanup import CacheCleanupTask
from sark_cache.fastapi.installation import Installation, installed
from sark_cache.fastapi.refreshing import Revalidate, evaluators_by_policy, refreshed_by
from sark_cache.selection.shared import policy_cache_of_process
from sark_cache.settings import CacheSettings


def policy_cache_lifespan(
    settings: CacheSettings | None = None, *, revalidate: Revalidate | None = None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Returns a lifespan that gives an app the policy cache of the process.

    Pass it to the app, `FastAPI(lifespan=policy_cache_lifespan())`, or enter it in your own
    lifespan:

    >>> with_policy_cache = policy_cache_lifespan()
    >>> @asynccontextmanager
    ... async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    ...     async with with_policy_cache(app):
    ...         yield

    At the start, if Redis is configured, it tries once to reach Redis, for about half a second. The
    app starts even if Redis does not answer. While the app runs, expired entries are removed in the
    background if the settings allow it. At the end the cleanup stops. When the last app of the
    process ends, the caches, the feature flags and their connections are closed, even if the
    shutdown is cancelled.

    Args:
        settings: The settings of the caches. None: those of the environment when the app starts.
        revalidate: The evaluator that refreshes decisions before they expire: the one that was
            passed to `authorize`. For several policies, a dict of evaluators by policy:
            `{"documents": evaluate}`. Each evaluator refreshes only the decisions of its policy.
            The policy `""` has the decisions that handlers store without a policy. `revalidate`
            applies to all apps of the process.

    Raises:
        TypeError, ValueError: `revalidate` is not an evaluator, or its policy has no name.

    The lifespan raises at the start of the app:
        SettingsError: A variable of the environment is wrong. The message names the variables.
        ImportError: Redis is configured, but no client for it is installed.
        RuntimeError: Another app of this process runs with other settings.
    """
    evaluators = {} if revalidate is None else evaluators_by_policy(revalidate)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        chosen = CacheSettings.from_environment() if settings is None else settings
        async with policy_cache_of_process(chosen) as shared:
            cache = shared.cache
            if evaluators:
                cache.set_revalidate_callback(refreshed_by(evaluators, cache))
            cleanup = CacheCleanupTask(cache, chosen.cleanup_interval, chosen.cleanup_enabled)
            await cleanup.start()
            try:
                with installed(app, Installation(cache, shared.selection.flags, cleanup)):
                    yield
            finally:
                await cleanup.stop()

    return lifespan
