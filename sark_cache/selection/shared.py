"""The policy cache of a process, which all its apps share while they run."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from sark_cache._core.poller import lock_across_forks
from sark_cache.selection.registry import close_policy_caches
from sark_cache.selection.selected import SelectedPolicyCache
from sark_cache.selection.selector import Selection, use_settings
from sark_cache.settings import CacheSettings


@dataclass(eq=False, slots=True)
class SharedCache:
    """The policy cache of a process, and the number of apps that use it."""

    settings: CacheSettings
    selection: Selection
    cache: SelectedPolicyCache
    users: int = 0
    process: int = field(default_factory=os.getpid)


_shared: SharedCache | None = None
_lock: Final = lock_across_forks()


@asynccontextmanager
async def policy_cache_of_process(
    settings: CacheSettings | None = None,
) -> AsyncGenerator[SharedCache]:
    """Provides the policy cache of this process. The last one to leave closes it.

    Args:
        settings: The settings of the caches. None: those with which it runs, or else those of the
            environment.

    Raises:
        SettingsError: A variable of the environment is wrong. The message names the variables.
        ImportError: Redis is configured, but no client for it is installed.
        RuntimeError: Another app of this process runs with other settings.
    """
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


def _take(settings: CacheSettings | None) -> SharedCache:
    global _shared  # noqa: PLW0603 - there is one per process
    with _lock:
        if _shared is None or _shared.process != os.getpid():
            chosen = CacheSettings.from_environment() if settings is None else settings
            selection = use_settings(chosen)
            _shared = SharedCache(chosen, selection, SelectedPolicyCache(selection))
        if settings is not None:
            _refuse_others(settings, _shared.settings)
        _shared.users += 1
        return _shared


def _give_back(shared: SharedCache) -> bool:
    """Removes one user from the count. Returns True if it was the last one."""
    global _shared  # noqa: PLW0603
    with _lock:
        shared.users -= 1
        if not shared.users and _shared is shared:
            _shared = None
        return not shared.users


def _refuse_others(settings: CacheSettings, running: CacheSettings) -> None:
    differing = [name for name, value in running if getattr(settings, name) != value]
    if differing:
        message = (
            "another app of this process runs with other settings, and a process has only one "
            f"policy cache: give both apps the same {', '.join(differing)}"
        )
        raise RuntimeError(message)
