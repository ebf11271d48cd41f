"""Which features there are, so that a misspelt name is refused instead of set."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from sark_cache.cli._exit import ExitCode, FailureError
from sark_cache.cli._redis import why
from sark_cache.cli.flags import storage as rollouts
from sark_cache.rollout.manager import INITIAL

if TYPE_CHECKING:
    from sark_cache.cli.flags.storage import Rollout
    from sark_cache.settings import CacheSettings

MOST_NAMED = 10
"""Features that an error names at most."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that is no feature of this package and was never set in Redis."""

    feature: str
    known: list[str]
    near: str | None
    """The feature that is probably meant."""

    @property
    def message(self) -> str:
        """Says so, with the features there are."""
        named = ", ".join(self.known[:MOST_NAMED]) + (", ..." if self.known[MOST_NAMED:] else "")
        suggested = f" Did you mean {self.near}?" if self.near is not None else ""
        return f"no feature is called {self.feature}.{suggested} There are: {named}."


def require_known(
    client: Any,  # noqa: ANN401 - of either library
    feature: str,
    settings: "CacheSettings",
    *,
    unless: str | None = None,
) -> None:
    """Refuses a feature that is none of this package and was never set in Redis.

    Args:
        client: A client of the server.
        feature: Its name.
        settings: The settings of the command.
        unless: The option that would allow it, if there is one.

    Raises:
        FailureError: Nobody knows the feature, or the server does not say whether it was set.
    """
    if feature in INITIAL:
        return
    forced = f" {unless} sets it all the same." if unless else ""
    try:
        [found] = rollouts.read(client, [feature], settings).values()
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        message = f"Redis does not say whether {feature} was ever set: {why(error, settings)}."
        raise FailureError(ExitCode.WRONG, message + forced) from None
    unheard_of = unknown(client, feature, found)
    if unheard_of is not None:
        document = {"did_you_mean": unheard_of.near, "known_features": unheard_of.known}
        raise FailureError(ExitCode.USAGE, unheard_of.message + forced, document)


def unknown(client: Any, feature: str, rollout: "Rollout") -> Unknown | None:  # noqa: ANN401
    """Returns the features there are if a name is none of them, else None.

    Args:
        client: A client of the server.
        feature: The name.
        rollout: Its rollout, as it was read.
    """
    if feature in INITIAL or rollout.source == "redis" or rollout.problem is not None:
        return None
    known = _known(client)
    return Unknown(feature, known, _nearest(feature, known))


def _known(client: Any) -> list[str]:  # noqa: ANN401 - of either library
    """Every feature that was ever set; those of this package if the others cannot be listed."""
    try:
        return rollouts.everywhere(client)
    except Exception:  # noqa: BLE001 - whatever the client raises
        return sorted(INITIAL)


def _nearest(feature: str, known: list[str]) -> str | None:
    """The name that is most like another one, upper or lower case alike."""
    by_lower_case = {name.casefold(): name for name in known}
    near = get_close_matches(feature.casefold(), by_lower_case, n=1)
    return by_lower_case[near[0]] if near else None
