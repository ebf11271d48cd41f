"""Percentage rollouts: decides which users get a feature.

Percentages can change while the service runs. A user gets a feature if `md5(feature:user) % 100` is
less than the feature's percentage. So a user who has the feature keeps it while the percentage
grows. A check costs this hash and a dict look-up, about two microseconds, and no round trip: a
thread reads the percentages from Redis or Valkey twice a second.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NoReturn

from sark_cache._core.errors import with_text
from sark_cache._core.fault_log import FaultLog
from sark_cache._core.poller import BackgroundPoller, lock_across_forks
from sark_cache.errors import FlagError
from sark_cache.rollout.openfeature import BooleanFlags, Provider, openfeature_client
from sark_cache.rollout.redis_store import KEY_PREFIX, FlagStore, SynchronousClient, percentage_in

logger: Final = logging.getLogger("sark_cache")

INITIAL: Final[Mapping[str, int]] = {"rust_opa": 0, "rust_cache": 0}
"""The initial percentages of the features of this package."""

ALL_USERS: Final = 100
"""The percentage at which every user gets a feature. It needs no hash."""

REFRESH_SECONDS: Final = 0.5
"""The pause between two polls of Redis, in seconds. Every process sees a change within a second."""

FIRST_POLL_SECONDS: Final = 0.25
"""The maximum wait of a first call for Redis, in seconds: once per process, and once per name."""

CONFIRM_SECONDS: Final = 1.0
"""The maximum time, in seconds, that setting a percentage waits for Redis."""

MAX_DISCOVERED: Final = 100
"""The maximum number of features that are read from Redis but were not set in this process."""

MOST_FEATURES: Final = 256
"""The maximum number of features with a percentage, set in this process or initial."""

MOST_NAME_BYTES: Final = 128
"""The maximum length of the name of a feature, in UTF-8."""


@dataclass(eq=False, slots=True)
class _PendingWrite:
    """A percentage that this process set, and that it still has to write to Redis."""

    percentage: int
    process: int = field(default_factory=os.getpid)
    tried: threading.Event = field(default_factory=threading.Event)
    late: bool = False
    """True once the caller got an error because Redis did not confirm in time."""
    refusal: str = f"no answer within {CONFIRM_SECONDS:g} s"


@dataclass(eq=False, slots=True)
class _Question:
    """A question to Redis: does it store a percentage of this feature?"""

    feature: str
    is_stored: bool | None = None
    """None: Redis has not answered."""


_changes = lock_across_forks()


class FeatureFlagManager:
    """The rollout percentages of features. It decides which users get a feature.

    In Redis a percentage is decimal text under `feature_flag:{feature}`. This process sees a change
    by another process within a second. The last known percentage stays valid if Redis cannot be
    reached, if the value is not an integer from 0 to 100, or if there is no value (Redis was
    restarted without its data). The first call in a process waits for Redis, at most a quarter of a
    second. The manager has its own connection and its own thread, also in a forked child.

    With an OpenFeature client the provider decides, and gets the decision by the percentage as its
    default. If a percentage was set to 0, for example by `rollback`, no user gets the feature, and
    the provider is not called.

    Args:
        redis_client: A synchronous client of redis-py or valkey-py: a plain one, one of a cluster,
            or `sentinel.master_for(name)`. None: other processes do not see the percentages.
        initial: Percentages, 0 to 100, that apply until one is set or found in Redis. For
            `rust_opa` and `rust_cache` the default is 0.
        openfeature_client: A client of the OpenFeature SDK.

    Raises:
        TypeError: `redis_client` is not a synchronous client, or a percentage in `initial` is not
            an integer.
        ValueError: A percentage in `initial` is not from 0 to 100, or a name is not valid.
    """

    def __init__(
        self,
        redis_client: SynchronousClient | None = None,
        *,
        initial: Mapping[str, int] | None = None,
        openfeature_client: BooleanFlags | None = None,
    ) -> None:
        self._initial: Final = dict(INITIAL)
        self._known: Final[dict[str, int]] = {}
        self._seen_in_redis: Final[dict[str, int]] = {}
        self._pending_writes: Final[dict[str, _PendingWrite]] = {}
        self._discovered: Final[set[str]] = set()
        self._questions: Final[set[_Question]] = set()
        self._faults: Final = FaultLog("flag")
        self._poller: BackgroundPoller[FeatureFlagManager] | None = None
        self._client: SynchronousClient | None = None
        self._provider: Provider | None = None
        self._closed = False
        self.configure(redis_client, initial=initial, openfeature_client=openfeature_client)

    @property
    def closed(self) -> bool:
        """True after `close` was called."""
        return self._closed

    def should_use_rust(self, feature: str, user_id: str) -> bool:
        """Returns True if a user gets a feature.

        Args:
            feature: The feature's name. If its percentage was never set, no user gets it.
            user_id: The user.

        Raises:
            TypeError: An argument is not a str.
        """
        percentage = self.get_rollout_pct(feature)
        if not isinstance(user_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            _refuse_text("user_id", user_id)
        return self.includes(user_id, feature, percentage)

    def includes(self, user_id: str, feature: str, percentage: int) -> bool:
        """Returns the answer of `should_use_rust` for a known percentage and checked arguments."""
        by_percentage = percentage == ALL_USERS or is_in_rollout(feature, user_id, percentage)
        if self._provider is None or self._known.get(feature) == 0:
            return by_percentage
        return self._provider.includes(user_id, feature, default=by_percentage)

    def get_rollout_pct(self, feature: str) -> int:
        """Returns the percentage of users that get a feature, 0 to 100; 0 if it was never set.

        Raises:
            TypeError: `feature` is not a str.
        """
        if not isinstance(feature, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            _refuse_text("feature", feature)
        if self._poller is not None:
            self._poller.ensure_started()
        percentage = self._known.get(feature)
        if percentage is None:
            percentage = self._initial.get(feature)
        return self._discover(feature) if percentage is None else percentage

    def was_set(self, feature: str) -> bool:
        """Returns whether a percentage was set: here, or in Redis if this process has read it.

        So a feature that was set to 0 differs from one that was never set. `initial` sets nothing.
        """
        return feature in self._known

    def is_known(self, feature: str) -> bool:
        """Returns whether a feature has a percentage: an initial one, or one set here or in Redis.

        If this process does not know the name, it asks Redis, and waits at most a second.

        Raises:
            FlagError: Redis did not answer.
        """
        if feature in self.get_all_rollouts():
            return True
        if self._poller is None or self._closed or not is_name(feature):
            return False
        question = _Question(feature)
        with _changes:
            self._questions.add(question)
        self._poller.poll_now().wait(CONFIRM_SECONDS)
        with _changes:
            self._questions.discard(question)
        if question.is_stored is None:
            message = f"Redis does not say whether {feature} was ever set: it did not answer"
            raise FlagError(message)
        return question.is_stored

    @property
    def has_provider(self) -> bool:
        """True if an OpenFeature client decides."""
        return self._provider is not None

    @property
    def redis(self) -> SynchronousClient | None:
        """The client that the manager was created with, as in SARK."""
        return self._client

    @property
    def rollout_pct(self) -> Mapping[str, int]:
        """The result of `get_all_rollouts`, read-only, under SARK's name."""
        return MappingProxyType(self.get_all_rollouts())

    def get_all_rollouts(self) -> dict[str, int]:
        """Returns the percentage of every feature: initial, set here, or read from Redis."""
        if self._poller is not None:
            self._poller.ensure_started()
        with _changes:
            return {**self._initial, **self._known}

    def set_rollout_pct(self, feature: str, percentage: int) -> None:
        """Sets the percentage of users that get a feature.

        It applies at once in this process, and within a second in the others.

        Args:
            feature: The feature's name; a new one is added.
            percentage: An integer from 0 to 100.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: `percentage` is out of range; `feature` is not printable or too long; or
                the feature is new, and there are 256 features already.
            FlagError: Redis did not confirm the percentage within a second. It applies in this
                process, and is written when Redis can be reached again. If another process has set
                a lower percentage by then, the lower one stays.
            RuntimeError: The manager is closed.
        """
        self._set({feature: percentage})

    def rollback(self, feature: str) -> None:
        """Sets a feature's percentage to 0. Raises the errors of `set_rollout_pct`."""
        self._set({feature: 0})

    def rollback_all(self) -> None:
        """Sets the percentage of every feature of `get_all_rollouts` to 0, at once in this process.

        Raises:
            FlagError: Redis did not confirm all of them within a second.
            RuntimeError: The manager is closed.
        """
        with _changes:
            features = {**self._initial, **self._known}
        self._set(dict.fromkeys(features, 0))

    def configure(
        self,
        redis_client: SynchronousClient | None = None,
        *,
        initial: Mapping[str, int] | None = None,
        openfeature_client: BooleanFlags | None = None,
    ) -> None:
        """Adds initial percentages, and each given client if there is none of its kind yet.

        Raises:
            TypeError, ValueError: The constructor refuses such an argument.
        """
        for feature, percentage in (initial or {}).items():
            _check(feature, percentage, f"initial[{feature!r}]")
        with _changes:
            self._check_number(initial or {})
            self._initial.update(initial or {})
        if redis_client is not None and self._poller is None:
            store = FlagStore(redis_client)
            self._client = redis_client
            self._poller = BackgroundPoller(
                self,
                lambda flags: FeatureFlagManager._poll(flags, store),
                REFRESH_SECONDS,
                name="flag",
                at_end=store.close,
                first_poll_seconds=FIRST_POLL_SECONDS,
            )
        if openfeature_client is not None and self._provider is None:
            self._provider = Provider(openfeature_client, self._faults)

    def close(self) -> None:
        """Ends the thread and its connection within a second. The percentages stay as they are."""
        self._closed = True
        if self._poller is not None:
            self._poller.close()

    def _discover(self, feature: str) -> int:
        """Returns the percentage of an unknown feature. Each poll reads it from now on."""
        if self._poller is None or self._closed or feature in self._discovered:
            return 0
        # An invalid name is not sent: a lone surrogate would end every poll.
        if len(self._discovered) >= MAX_DISCOVERED or not is_name(feature):
            return 0
        with _changes:
            self._discovered.add(feature)
        self._poller.poll_now().wait(FIRST_POLL_SECONDS)
        return self._known.get(feature, 0)

    def _set(self, percentages: Mapping[str, int]) -> None:
        for feature, percentage in percentages.items():
            _check(feature, percentage, "percentage")
        if self._closed:
            message = "this manager is closed: create another one"
            raise RuntimeError(message)
        writes = {feature: _PendingWrite(number) for feature, number in percentages.items()}
        with _changes:
            self._check_number(percentages)
            before = {**self._initial, **self._known}
            self._known.update(percentages)
            if self._poller is not None:
                self._pending_writes.update(writes)
        for feature, percentage in percentages.items():
            _log_change(feature, before.get(feature, 0), percentage)
        if self._poller is not None:
            self._poller.poll_now()
            self._confirm(writes)

    def _check_number(self, percentages: Mapping[str, int]) -> None:
        """Raises a ValueError if a process cannot have so many features."""
        present = {**self._initial, **self._known}
        if percentages.keys() <= present.keys():
            return
        if len(present.keys() | percentages.keys()) > MOST_FEATURES:
            message = (
                f"a process can have at most {MOST_FEATURES} features, and this one has "
                f"{len(present)}: use one of them, or restart the process, which removes unused "
                "features"
            )
            raise ValueError(message)

    def _confirm(self, writes: Mapping[str, _PendingWrite]) -> None:
        """Waits until all percentages are written to Redis.

        Raises:
            FlagError: Redis did not confirm each write in time. The rest is written later.
        """
        give_up = time.monotonic() + CONFIRM_SECONDS
        for write in writes.values():
            write.tried.wait(max(give_up - time.monotonic(), 0))
        with _changes:  # a write that is not pending any more was done or replaced
            late = {f: w for f, w in writes.items() if self._pending_writes.get(f) is w}
            for write in late.values():
                write.late = True
        if late:
            changed = ", ".join(
                f"{feature} to {write.percentage} %" for feature, write in late.items()
            )
            reasons = ", ".join(sorted({write.refusal for write in late.values()}))
            message = (
                f"set {changed} in this process, but Redis did not confirm it ({reasons}); other "
                "processes may not see it yet. It is written when Redis is back."
            )
            raise FlagError(message)

    def _poll(self, store: FlagStore) -> None:
        """Sends the pending writes, then reads the percentages. Runs in the poller's thread."""
        self._send_pending_writes(store)
        with _changes:
            features = {**self._initial, **self._known}.keys() | self._discovered
            questions = tuple(self._questions)
        try:
            stored = store.read(features | {question.feature for question in questions})
        except Exception as error:  # noqa: BLE001 - a client may raise anything; the last known stays
            self._faults.report("refresh", with_text(error))
            return
        for question in questions:
            text = stored[question.feature]
            if not isinstance(text, Exception):
                question.is_stored = text is not None
        for feature in features:
            text = stored[feature]
            percentage = percentage_in(text)
            if percentage is not None:
                self._found(feature, percentage)
            elif text is not None:
                self._faults.report(
                    f"reading {feature}",
                    f"{KEY_PREFIX}{feature} does not hold an integer from 0 to 100. Set it with "
                    "`sark-cache flags set`",
                )

    def _found(self, feature: str, percentage: int) -> None:
        with _changes:
            if feature in self._pending_writes:  # set here since
                return
            self._seen_in_redis[feature] = percentage
            before = self._known.get(feature, self._initial.get(feature, 0))
            self._known[feature] = percentage
        _log_change(feature, before, percentage)

    def _send_pending_writes(self, store: FlagStore) -> None:
        with _changes:
            for feature, write in tuple(self._pending_writes.items()):
                if write.process != os.getpid():  # the parent process writes it
                    del self._pending_writes[feature]
            pending = tuple(self._pending_writes.items())
        for feature, write in pending:
            try:
                stands = self._write(store, feature, write)
            except Exception as error:  # noqa: BLE001 - a client may raise anything
                write.refusal = with_text(error)
                write.late = True
                self._faults.report("write", write.refusal)
            else:
                self._written(feature, write, stands)
            write.tried.set()

    def _write(self, store: FlagStore, feature: str, write: _PendingWrite) -> int:
        if write.late:
            last_seen = self._seen_in_redis.get(feature)
            return store.write_late(feature, write.percentage, last_seen)
        store.write(feature, write.percentage)
        return write.percentage

    def _written(self, feature: str, write: _PendingWrite, stands: int) -> None:
        with _changes:
            self._seen_in_redis[feature] = stands
            if self._pending_writes.get(feature) is not write:  # a newer percentage is pending
                return
            del self._pending_writes[feature]
            self._known[feature] = stands
        if write.late:
            logger.warning(
                "rollout of %s: %d %% was set while Redis was not reachable; Redis now has %d %%",
                feature,
                write.percentage,
                stands,
                extra={"feature": feature, "intended": write.percentage, "to": stands},
            )


def is_in_rollout(feature: str, user_id: str, percentage: int) -> bool:
    """Returns True if a user is among the `percentage` of users that get a feature.

    The rule is SARK's: `int(md5(f"{feature}:{user_id}").hexdigest(), 16) % 100 < percentage`.
    """
    if percentage in {0, ALL_USERS}:  # saves the hash, which costs more than a cache hit
        return percentage == ALL_USERS
    named = f"{feature}:{user_id}".encode("utf-8", "surrogatepass")
    digest = hashlib.md5(named, usedforsecurity=False).digest()
    return int.from_bytes(digest) % 100 < percentage


def is_name(feature: str) -> bool:
    """Returns whether a text can be the name of a feature: printable and not too long."""
    # A printable text has no lone surrogate, so it can be encoded.
    return feature.isprintable() and 0 < len(feature.encode()) <= MOST_NAME_BYTES


_instance: FeatureFlagManager | None = None
_instance_lock = lock_across_forks()


def get_feature_flag_manager(
    redis_client: SynchronousClient | None = None,
    *,
    initial: Mapping[str, int] | None = None,
) -> FeatureFlagManager:
    """Returns the feature flags of this process. Creates them at the first call or after `close`.

    If the application has set a provider of OpenFeature, the flags use it from the next call on.

    Args:
        redis_client: The client for `FeatureFlagManager`. A later call may pass it if no earlier
            call has passed one.
        initial: The initial percentages for `FeatureFlagManager`. Each call may pass some.

    Raises:
        TypeError, ValueError: `FeatureFlagManager` refuses an argument.
    """
    global _instance  # noqa: PLW0603 - there is one per process
    with _instance_lock:
        if _instance is None or _instance.closed:
            _instance = FeatureFlagManager(
                redis_client, initial=initial, openfeature_client=openfeature_client()
            )
        else:
            _instance.configure(
                redis_client, initial=initial, openfeature_client=openfeature_client()
            )
        return _instance


def _check(feature: object, percentage: object, name: str) -> None:
    if not isinstance(feature, str):
        _refuse_text("feature", feature)
    if not feature or not feature.isprintable():
        message = f"feature must be printable text, not {feature!r}"
        raise ValueError(message)
    if not is_name(feature):
        message = f"feature must be at most {MOST_NAME_BYTES} bytes long: choose a shorter name"
        raise ValueError(message)
    if not isinstance(percentage, int) or isinstance(percentage, bool):
        message = f"{name} must be an integer from 0 to 100, not a {type(percentage).__name__}"
        raise TypeError(message)
    if not 0 <= percentage <= 100:  # noqa: PLR2004
        message = f"{name} must be from 0 to 100, not {percentage}"
        raise ValueError(message)


def _refuse_text(argument: str, given: object) -> NoReturn:
    message = f"{argument} must be a str, not a {type(given).__name__}"
    raise TypeError(message)


def _log_change(feature: str, before: int, after: int) -> None:
    if before != after:
        logger.info(
            "rollout of %s: from %d %% to %d %%",
            feature,
            before,
            after,
            extra={"feature": feature, "from": before, "to": after},
        )
