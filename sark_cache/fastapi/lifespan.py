"""The lifespan of the policy cache: created at the start of an app, closed at its end."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from starlette.applications import Starlette

from sark_cache._core.poller import lock_across_forks
from sark_cache.cleanup import CacheCleanupTask
from sark_cache.fastapi.installation import Installation, installed
from sark_cache.fastapi.refreshing import Revalidate, evaluators_by_policy, refreshed_by
from sark_cache.selection.registry import close_policy_caches
from sark_cache.selection.selected import SelectedPolicyCache
from sark_cache.selection.selector import Selection, use_settings
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
        async with _policy_cache_of_process(chosen) as shared:
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


@dataclass(eq=False, slots=True)
class _Shared:
    """The policy cache of a process, and the number of lifespans that use it."""

    settings: CacheSettings
    selection: Selection
    cache: SelectedPolicyCache
    lifespans: int = 0
    process: int = field(default_factory=os.getpid)


_shared: _Shared | None = None
_lock: Final = lock_across_forks()


@asynccontextmanager
async def _policy_cache_of_process(settings: CacheSettings) -> AsyncGenerator[_Shared]:
    shared = _take(settings)
    try:
        # In a thread, because the first choice of a process waits for a poll of Redis.
        await asyncio.to_thread(shared.selection.choose, "")
        await shared.cache.health_check()
        yield shared
    finally:
        if _give_back(shared):
            async with AsyncExitStack() as closing:  # runs all steps, even if one is cancelled
                closing.push_async_callback(close_policy_caches)
                closing.callback(shared.selection.close)
                closing.push_async_callback(shared.cache.close)


def _take(settings: CacheSettings) -> _Shared:
    global _shared  # noqa: PLW0603 - there is one per process
    with _lock:
        if _shared is None or _shared.process != os.getpid():
            selection = use_settings(settings)
            _shared = _Shared(settings, selection, SelectedPolicyCache(selection))
        _refuse_others(settings, _shared.settings)
        _shared.lifespans += 1
        return _shared


def _give_back(shared: _Shared) -> bool:
    """Removes one lifespan from the count. Returns True if it was the last one."""
    global _shared  # noqa: PLW0603
    with _lock:
        shared.lifespans -= 1
        if not shared.lifespans and _shared is shared:
            _shared = None
        return not shared.lifespans


def _refuse_others(settings: CacheSettings, running: CacheSettings) -> None:
    differing = [name for name, value in running if getattr(settings, name) != value]
    if differing:
        message = (
            "another app of this process runs with other settings, and a process has only one "
            f"policy cache: give both apps the same {', '.join(differing)}"
        )
        raise RuntimeError(message)
