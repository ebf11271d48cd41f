"""The choice of a user's cache: native, otherwise Redis, otherwise one that stores nothing.

If no rollout was ever set, all users get the native cache. If a server is configured, the native
cache is *tiered*: every process can revoke its decisions through the server.

The caches are those of this process. They are created from `CacheSettings` and linked: a revocation
through one of them reaches all. A choice costs about a microsecond and no round trip. Threads poll
in the background: the rollout percentages twice a second, and once a second whether Redis answers.
"""

import logging
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sark_cache._core import arguments
from sark_cache._core.compiled import is_rust_cache_available
from sark_cache._core.errors import describe
from sark_cache._core.fault_log import FaultLog
from sark_cache._core.poller import BackgroundPoller, lock_across_forks
from sark_cache._core.redis_urls import connect_blocking
from sark_cache._core.workers import several_workers
from sark_cache.backends._shared import defaults
from sark_cache.rollout.manager import ALL_USERS, FeatureFlagManager, get_feature_flag_manager
from sark_cache.selection.registry import (
    LinkedNullPolicyCache,
    LinkedPolicyCache,
    LinkedRustPolicyCache,
    LinkedTieredPolicyCache,
    ProcessCache,
    differing,
    get_or_create,
    is_tiered,
    native_of,
    open_caches,
    redis_of,
    tiered_of,
)

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

logger: Final = logging.getLogger("sark_cache")

FEATURE: Final = "rust_cache"
POLL_SECONDS: Final = 1.0
"""The pause between two checks that Redis can be reached."""

_ALL_IN: Final = "no rollout was ever set, so all users get the native cache"


class Choice(NamedTuple):
    """A backend, and the reason why it was chosen."""

    backend: str
    """`native`, `tiered`, `redis` or `none`."""
    reason: str


class Selection:
    """Chooses between the caches of this process, by the settings, the rollout and the servers.

    Args:
        settings: The settings that the caches are created from.
        follows: If False, the tiered cache is not created before it is used. Then nothing is
            written to the server.
    """

    def __init__(self, settings: "CacheSettings", *, follows: bool = True) -> None:
        self.settings: Final = settings
        self._may_be_native: Final = settings.use_rust_cache and is_rust_cache_available()
        self._native: Final = "tiered" if is_tiered(settings) else "native"
        self._tier: LinkedTieredPolicyCache | None = None
        self._is_rollout_given: Final = settings.rust_cache_rollout_pct is not None
        self._faults: Final = FaultLog("redis")
        self._refusals: Final[set[str]] = set()
        self._logged: Final[set[Choice]] = set()
        self._logged_choices: Final[set[tuple[str, int]]] = set()
        self.closed: bool = False
        self._reached = False
        self._server: Final = _Server(settings)
        self.flags: Final[FeatureFlagManager] = get_feature_flag_manager(
            initial={
                FEATURE: ALL_USERS if (given := settings.rust_cache_rollout_pct) is None else given,
                "rust_opa": settings.rust_opa_rollout_pct,
            }
        )
        self._poller: BackgroundPoller[Selection] | None = None
        if settings.redis_url is not None:
            # Created now, so that every revocation reaches it: other processes may have stored
            # decisions in Redis.
            self._redis()
            if follows and self._may_be_native and self._native == "tiered":
                self._begin_to_follow()
            self._poller = BackgroundPoller(
                self, Selection._poll, POLL_SECONDS, name="redis", at_end=self._server.close
            )

    def choose(self, user_id: str) -> Choice:
        """Returns the backend for a user, and the reason.

        Raises:
            TypeError: `user_id` is not a str.
        """
        percentage = self._percentage()
        return self._explained(self._backend(user_id, percentage), percentage)

    def cache_for(self, user_id: str, *, fallback_on_error: bool = True) -> ProcessCache:
        """Returns the cache for a user.

        Raises:
            TypeError: `user_id` is not a str.
            Exception: The chosen cache cannot be created, and `fallback_on_error` is False.
        """
        # The percentage is read once, and few functions are called: a choice takes 0.8 µs
        # instead of 1.4.
        percentage = self._percentage()
        backend = self._backend(user_id, percentage)
        # Checks by backend and percentage whether the choice was logged, before it formats a text.
        if (backend, percentage) not in self._logged_choices or self.settings.log_user_ids:
            self._log(self._explained(backend, percentage), user_id)
            self._logged_choices.add((backend, percentage))
        try:
            if backend == "tiered":
                return self._tiered()
            if backend == "native":
                return get_or_create(LinkedRustPolicyCache, self._make_native)
            return self._redis() if backend == "redis" else self._null()
        except Exception as error:
            if not fallback_on_error:
                raise
            self._faults.report(f"creating the {backend} cache", describe(error))
        if backend == self._native and self._is_redis_there():
            return self._redis()
        return self._null()

    def any_cache(self) -> ProcessCache:
        """Returns any open cache of this process, or else one that stores nothing."""
        return next(iter(open_caches()), None) or self._null()

    def close(self) -> None:
        """Stops the polling of Redis and of the percentages in the background."""
        self.closed = True
        defaults.take_out_of_force(self.settings)
        self.flags.close()
        if self._poller is not None:
            self._poller.close()

    def _percentage(self) -> int:
        """Returns the rollout percentage of the last poll of Redis; starts polling if needed."""
        if self._poller is not None:
            self._poller.ensure_started()
        return self.flags.get_rollout_pct(FEATURE)

    def _backend(self, user_id: str, percentage: int) -> str:
        if not isinstance(user_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            arguments.refuse("user_id", "a str", user_id)
        if self._may_be_native and self.flags.includes(user_id, FEATURE, percentage):
            if self._tier is None or self._tier.refused is None:
                return self._native
            self._warn_of_refusal(self._tier.refused)
        return "redis" if self._is_redis_there() else "none"

    def _is_untouched(self) -> bool:
        """Returns True if no percentage was ever set, by a setting or a flag."""
        return not (self._is_rollout_given or self.flags.was_set(FEATURE))

    def _explained(self, backend: str, percentage: int) -> Choice:
        untouched = self._is_untouched()
        if backend != self._native and self._tier is not None and self._tier.refused is not None:
            return Choice(backend, f"the native cache cannot follow the log: {self._tier.refused}")
        if backend in {"native", "tiered"}:
            reason = f"the user is among the {percentage} % of users in the rollout"
            return Choice(backend, _ALL_IN if untouched else reason)
        if not self._may_be_native:
            without_native = _why_not_native(self.settings)
        else:
            without_native = f"the user is not among the {percentage} % of users in the rollout"
        if backend == "redis":
            return Choice(backend, without_native)
        unconfigured = "no Redis is configured (SARK_CACHE_REDIS_URL)"
        without_redis = unconfigured if self._poller is None else "Redis cannot be reached"
        return Choice(backend, f"{without_native}; {without_redis}")

    def _is_redis_there(self) -> bool:
        return self._poller is not None and self._reached

    def _make_native(self) -> LinkedRustPolicyCache:
        return native_of(self.settings)

    def _tiered(self) -> LinkedTieredPolicyCache:
        return get_or_create(LinkedTieredPolicyCache, lambda: tiered_of(self.settings))

    def _begin_to_follow(self) -> None:
        """Creates the tiered cache, so that it follows the log before the first request."""
        try:
            self._tier = self._tiered()
            self._tier.follow()
        except Exception as error:  # noqa: BLE001 - the same error is handled at each choice
            self._faults.report("creating the tiered cache", describe(error))

    def _warn_of_refusal(self, reason: str) -> None:
        """Warns once that users get another cache because the tiered one cannot follow the log."""
        if reason not in self._refusals:
            self._refusals.add(reason)
            logger.warning(
                "sark-cache: the native cache is not used, because it cannot share revocations "
                "through this server: %s. See the page on servers, or set SARK_CACHE_TIERED=false",
                reason,
            )

    def _redis(self) -> LinkedPolicyCache:
        return get_or_create(LinkedPolicyCache, lambda: redis_of(self.settings))

    @staticmethod
    def _null() -> LinkedNullPolicyCache:
        return get_or_create(LinkedNullPolicyCache, LinkedNullPolicyCache)

    def _poll(self) -> None:
        """Checks whether Redis can be reached. Runs in the poller's thread."""
        try:
            self._server.answer()
        except Exception as error:  # noqa: BLE001 - after any error, Redis counts as unreachable
            self._reached = False
            self._faults.report("the check of the server", describe(error))
        else:
            self._reached = True

    def _log(self, choice: Choice, user_id: str) -> None:
        """Logs each choice once without its user, or with `log_user_ids` every choice with it."""
        if choice in self._logged and not self.settings.log_user_ids:
            return
        extra = {"backend": choice.backend, "reason": choice.reason}
        if self.settings.log_user_ids:
            logger.info(
                "policy cache: %s for %s: %s",
                choice.backend,
                user_id,
                choice.reason,
                extra={**extra, "user_id": user_id},
            )
        else:
            self._logged.add(choice)
            logger.info("policy cache: %s: %s", choice.backend, choice.reason, extra=extra)


class _Server:
    """The check of the server, over its own connection, in the poller's thread."""

    def __init__(self, settings: "CacheSettings") -> None:
        self._settings: Final = settings
        self._client: tuple[int, Any] | None = None

    def answer(self) -> None:
        """Sends a PING.

        Raises:
            Exception: The server does not answer, or no client can be created.
        """
        if self._client is None or self._client[0] != os.getpid():
            settings = self._settings
            url = settings.redis_url.get_secret_value() if settings.redis_url else ""
            timeouts = (settings.redis_connect_timeout, settings.redis_command_timeout)
            client = connect_blocking(url, *timeouts)
            self._client = (os.getpid(), client)
            get_feature_flag_manager(client)
        self._client[1].ping()

    def close(self) -> None:
        """Closes this process's connection."""
        client, self._client = self._client, None
        if client is not None and client[0] == os.getpid():
            client[1].close()


_selection: Selection | None = None
_lock = lock_across_forks()


def get_selection() -> Selection:
    """Returns the selection of this process. The first call creates it from the environment.

    Raises:
        ImportError: pydantic-settings is not installed. The message says how to get it.
        SettingsError: A variable of the environment is wrong. The message names the variables.
    """
    global _selection  # noqa: PLW0603 - there is one per process
    with _lock:
        if _selection is None or _selection.closed:
            from sark_cache.settings import CacheSettings  # noqa: PLC0415 - an extra

            _selection = _create(CacheSettings.from_environment())
        return _selection


def use_settings(settings: "CacheSettings") -> Selection:
    """Replaces the selection of this process by a new one with the given settings."""
    global _selection  # noqa: PLW0603
    with _lock:
        before, _selection = _selection, None
        if before is not None:
            before.close()
        _selection = _create(settings, None if before is None else before.settings)
        return _selection


def _create(settings: "CacheSettings", before: "CacheSettings | None" = None) -> Selection:
    """Creates a selection. Logs the shortcoming of its settings, unless they are as before."""
    defaults.put_in_force(settings)
    falls_short = shortcoming(settings, settings.rust_cache_rollout_pct)
    if falls_short is not None and settings != before:
        logger.warning("sark-cache: %s", falls_short)
    for backend, names in differing(settings):
        logger.warning(
            "sark-cache: the %s cache of this process was made from other settings (%s) and keeps "
            "them. Call close_policy_caches() before the app starts, or create the cache only "
            "after the app has started",
            backend,
            ", ".join(names),
        )
    return Selection(settings)


def shortcoming(settings: "CacheSettings", rollout: int | None) -> str | None:
    """Returns a warning about a service with these settings. None: there is nothing to warn of.

    There are two warnings: the service caches nothing; or it runs as several processes, whose
    native caches do not share revocations.

    Args:
        settings: The settings.
        rollout: The percentage of users that get the native cache. None: it was never set.
    """
    if not settings.enabled:
        return "nothing is cached: SARK_CACHE_ENABLED is false"
    has_redis = settings.redis_url is not None
    has_native = settings.use_rust_cache and is_rust_cache_available()
    if not has_redis and not has_native:
        return (
            f"nothing is cached: {_why_not_native(settings)}, and no Redis is configured: "
            "set SARK_CACHE_REDIS_URL"
        )
    if not has_redis and rollout == 0 and not get_feature_flag_manager().has_provider:
        return (
            f"nothing is cached: the rollout of {FEATURE} is 0 % and no Redis is configured. "
            "Remove SARK_CACHE_RUST_CACHE_ROLLOUT_PCT, or set SARK_CACHE_REDIS_URL"
        )
    is_native_used = has_native and not has_redis and (rollout is None or bool(rollout))
    several = several_workers() if is_native_used and settings.tiered is not False else None
    return None if several is None else _apart(settings, several)


def _why_not_native(settings: "CacheSettings") -> str:
    if not settings.use_rust_cache:
        return "the native cache is switched off (SARK_CACHE_USE_RUST_CACHE)"
    return "the compiled module is not available"


def _apart(settings: "CacheSettings", several: str) -> str:
    """Returns the warning that native caches of several processes do not share revocations."""
    return (
        f"this service runs as several processes ({several}), each with its own native cache. "
        "A decision that one process revokes is served by the others until its time to live is "
        f"over, {settings.cache_ttl:g} s by default. Set SARK_CACHE_REDIS_URL, so that they share "
        "revocations. To accept this, set SARK_CACHE_TIERED=false"
    )


def create_policy_cache(
    user_id: str,
    fallback_on_error: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
) -> ProcessCache:
    """Returns the cache for a user: native, otherwise Redis, otherwise one that stores nothing.

    The user gets the native cache if the settings allow it (`SARK_CACHE_USE_RUST_CACHE`), the
    compiled module is available, and the user is in the rollout of `rust_cache`. If no rollout was
    ever set, all users are in. If `SARK_CACHE_REDIS_URL` is set, the native cache is a
    `TieredPolicyCache`, unless `SARK_CACHE_TIERED` is false. A user who does not get the native
    cache gets Redis if it is configured and the server can be reached. Call this for each request,
    because a rollout changes while the service runs.

    The caches are those of `get_rust_policy_cache` and `get_policy_cache`, so each is created only
    once. The choice and its reason are logged at INFO, once for each reason. If nothing is cached,
    or if native caches of several processes do not share revocations, that is logged at WARNING,
    once.

    A revocation through any of the caches reaches all of them.

    Args:
        user_id: The user who makes the request.
        fallback_on_error: If True, a cache that cannot be created is replaced by another one.

    Raises:
        TypeError: `user_id` is not a str.
        ImportError: pydantic-settings is not installed. The message says how to get it.
        SettingsError: A variable of the environment is wrong. The message names the variables.
        Exception: The chosen cache cannot be created, and `fallback_on_error` is False.
    """
    return get_selection().cache_for(user_id, fallback_on_error=fallback_on_error)
