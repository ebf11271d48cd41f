"""Rollout percentages where all processes look for them: in Redis."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sark_cache.cli._redis import why
from sark_cache.errors import FlagError
from sark_cache.rollout.manager import EVERYBODY, INITIAL
from sark_cache.rollout.redis_store import KEY_PREFIX, percentage_in

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

KEYS_AT_ONCE = 1_000

NO_PERCENTAGE = (
    "running processes keep the last percentage that they saw. Set it again, with "
    "sark-cache flags set"
)
"""What follows from a value in Redis that is no percentage, and the cure."""

SETTING_OF = {feature: f"{feature}_rollout_pct" for feature in INITIAL}


@dataclass(frozen=True, slots=True)
class Rollout:
    """The percentage of one feature, as a process sees it that starts now."""

    percentage: int
    source: str
    """`redis`, where it was set; or what holds until then: `settings`, `default` or `never set`."""
    problem: str | None = None
    """Why what Redis holds is no percentage."""

    @property
    def told(self) -> str:
        """The percentage and its source, for people."""
        if self.source == "never set":
            return "never set: everybody is served alike"
        source = {
            "redis": "set in Redis",
            "settings": "from the settings, until one is set",
            "default": "the default, until one is set",
        }[self.source]
        return f"{self.percentage} % of users ({source})"


def initial(feature: str, settings: "CacheSettings") -> Rollout:
    """What holds until a percentage is set in Redis."""
    setting = SETTING_OF.get(feature, "")
    given = getattr(settings, setting, 0)
    if given is None:
        return Rollout(EVERYBODY, "never set")
    return Rollout(given, "settings" if setting in settings.model_fields_set else "default")


def read(
    client: Any,  # noqa: ANN401 - of either library
    features: Iterable[str],
    settings: "CacheSettings",
) -> dict[str, Rollout]:
    """The rollouts of some features, in one round trip.

    Raises:
        Exception: What the client raises when the server does not answer.
    """
    named = list(features)
    pipeline = client.pipeline(transaction=False)
    for feature in named:
        pipeline.get(KEY_PREFIX + feature)
    replies = pipeline.execute(raise_on_error=False)
    return {
        feature: _rollout(feature, stored, settings)
        for feature, stored in zip(named, replies, strict=True)
    }


def write(
    client: Any,  # noqa: ANN401 - of either library
    percentages: dict[str, int],
    settings: "CacheSettings",
) -> None:
    """Sets percentages, each of them whatever becomes of the others.

    Raises:
        FlagError: Some could not be confirmed; the message names each.
    """
    unconfirmed: list[str] = []
    for feature, percentage in percentages.items():
        try:
            client.set(KEY_PREFIX + feature, str(percentage))
        except Exception as error:  # noqa: BLE001 - whatever the client raises
            unconfirmed.append(f"{feature} to {percentage} % ({why(error, settings)})")
    if unconfirmed:
        message = (
            f"Redis did not confirm to have set {', '.join(unconfirmed)}. It may or may not have "
            "been done: run the command again"
        )
        raise FlagError(message)


def remove(client: Any, feature: str) -> bool:  # noqa: ANN401 - of either library
    """Removes what Redis holds for a feature; returns whether it held something.

    Raises:
        Exception: What the client raises when the server does not answer.
    """
    return bool(client.delete(KEY_PREFIX + feature))


def everywhere(client: Any) -> list[str]:  # noqa: ANN401 - of either library
    """The features of this package, and those that were ever set in Redis: walks over all keys.

    Raises:
        Exception: What the client raises when the server does not answer.
    """
    # What is no UTF-8 is not printable, and so no feature.
    keys = client.scan_iter(match=f"{KEY_PREFIX}*", count=KEYS_AT_ONCE)
    names = {_text(key).removeprefix(KEY_PREFIX) for key in keys}
    return sorted(INITIAL.keys() | {name for name in names if name and name.isprintable()})


def _rollout(feature: str, stored: object, settings: "CacheSettings") -> Rollout:
    """A feature's rollout by what Redis holds, which may be a complaint."""
    percentage = percentage_in(stored)
    if percentage is not None:
        return Rollout(percentage, "redis")
    if isinstance(stored, Exception) and "WRONGTYPE" not in str(stored):
        raise stored
    problem = f"{KEY_PREFIX}{feature} does not hold an integer from 0 to 100" if stored else None
    return replace(initial(feature, settings), problem=problem)


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode(errors="surrogateescape")
