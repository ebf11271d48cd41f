"""Which features there are, so that a misspelt name is refused instead of set."""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from sark_cache.cli import rollouts
from sark_cache.cli.outcomes import ExitCode, FailureError
from sark_cache.cli.servers import why
from sark_cache.flags import INITIAL

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

MOST_NAMED = 10
"""Features that an error names at most."""


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
    if found.source == "redis" or found.problem is not None:
        return
    known = _known(client)
    near = _nearest(feature, known)
    named = ", ".join(known[:MOST_NAMED]) + (", ..." if len(known) > MOST_NAMED else "")
    suggested = f" Did you mean {near}?" if near is not None else ""
    message = f"no feature is called {feature}.{suggested} There are: {named}.{forced}"
    document = {"did_you_mean": near, "known_features": known}
    raise FailureError(ExitCode.USAGE, message, document)


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
