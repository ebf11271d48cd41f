"""Rollout percentages in Redis, where all processes read them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sark_cache.cli._redis import without_secrets
from sark_cache.errors import FlagError
from sark_cache.rollout import redis_store
from sark_cache.rollout.manager import ALL_USERS, INITIAL
from sark_cache.rollout.redis_store import KEY_PREFIX, percentage_in

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

KEYS_AT_ONCE = 1_000

NO_PERCENTAGE = (
    "running processes keep the last percentage that they read. Set it again with "
    "sark-cache flags set"
)
"""The consequence of a value in Redis that is not a percentage, and the cure."""

SETTING_OF = {feature: f"{feature}_rollout_pct" for feature in INITIAL}


@dataclass(frozen=True, slots=True)
class RolloutAtStart:
    """The percentage of one feature that a process uses if it starts now."""

    percentage: int
    source: str
    """`redis` if it is set there, else `settings`, `default` or `never set`."""
    problem: str | None = None
    """The error if the value in Redis is not a percentage."""

    @property
    def summary(self) -> str:
        """Returns the percentage and its source, for people."""
        if self.source == "never set":
            return "never set: all users get the feature"
        source = {
            "redis": "set in Redis",
            "settings": "from the settings, until one is set",
            "default": "the default, until one is set",
        }[self.source]
        return f"{self.percentage} % of users ({source})"


def initial(feature: str, settings: "CacheSettings") -> RolloutAtStart:
    """Returns the rollout that applies until a percentage is set in Redis."""
    setting = SETTING_OF.get(feature, "")
    given = getattr(settings, setting, 0)
    if given is None:
        return RolloutAtStart(ALL_USERS, "never set")
    return RolloutAtStart(given, "settings" if setting in settings.model_fields_set else "default")


def read(
    client: Any,  # noqa: ANN401 - of either library
    features: Iterable[str],
    settings: "CacheSettings",
) -> dict[str, RolloutAtStart]:
    """Returns the rollouts of features. Takes one round trip.

    Raises:
        Exception: An error of the client: Redis does not answer.
    """
    return {
        feature: _rollout(feature, stored, settings)
        for feature, stored in redis_store.read(client, features).items()
    }


def write(
    client: Any,  # noqa: ANN401 - of either library
    percentages: dict[str, int],
    settings: "CacheSettings",
) -> None:
    """Sets percentages. A failure to set one does not keep the others from being set.

    Raises:
        FlagError: Redis did not confirm some of them. The message names each.
    """
    unconfirmed: list[str] = []
    for feature, percentage in percentages.items():
        try:
            redis_store.write(client, feature, percentage)
        except Exception as error:  # noqa: BLE001 - any error of the client
            unconfirmed.append(f"{feature} to {percentage} % ({without_secrets(error, settings)})")
    if unconfirmed:
        message = (
            f"Redis did not confirm setting {', '.join(unconfirmed)}. The change may or may not "
            "have been made: run the command again"
        )
        raise FlagError(message)


def remove(client: Any, feature: str) -> bool:  # noqa: ANN401 - of either library
    """Removes a feature's value from Redis. Returns whether there was one.

    Raises:
        Exception: An error of the client: Redis does not answer.
    """
    return bool(client.delete(KEY_PREFIX + feature))


def every_feature(client: Any) -> list[str]:  # noqa: ANN401 - of either library
    """Returns the features of this package and those set in Redis, sorted. Scans all keys.

    Raises:
        Exception: An error of the client: Redis does not answer.
    """
    # A name that is not UTF-8 is not printable, and so not a feature.
    keys = client.scan_iter(match=f"{KEY_PREFIX}*", count=KEYS_AT_ONCE)
    names = {_text(key).removeprefix(KEY_PREFIX) for key in keys}
    return sorted(INITIAL.keys() | {name for name in names if name and name.isprintable()})


def _rollout(feature: str, stored: object, settings: "CacheSettings") -> RolloutAtStart:
    """Returns a feature's rollout from the reply of Redis.

    Raises:
        Exception: The reply is an error, and not about the type of the value.
    """
    percentage = percentage_in(stored)
    if percentage is not None:
        return RolloutAtStart(percentage, "redis")
    if isinstance(stored, Exception) and "WRONGTYPE" not in str(stored):
        raise stored
    problem = f"{KEY_PREFIX}{feature} does not hold an integer from 0 to 100" if stored else None
    return replace(initial(feature, settings), problem=problem)


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode(errors="surrogateescape")
