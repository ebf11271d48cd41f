"""The names of features that exist, so that a misspelt name is refused instead of set."""

from typing import TYPE_CHECKING, Any

from sark_cache.cli._exit import ExitCode, FailureError
from sark_cache.cli._redis import without_secrets
from sark_cache.cli.flags import storage as rollouts
from sark_cache.rollout.manager import INITIAL
from sark_cache.rollout.unknown import UnknownFeature

if TYPE_CHECKING:
    from sark_cache.cli.flags.storage import RolloutAtStart
    from sark_cache.settings import CacheSettings


def require_known(
    client: Any,  # noqa: ANN401 - of either library
    feature: str,
    settings: "CacheSettings",
    *,
    unless: str | None = None,
) -> None:
    """Refuses a name that is not a feature of this package and was never set in Redis.

    Args:
        client: A client of Redis.
        feature: The name of the feature.
        settings: The settings of the command.
        unless: The option that accepts an unknown name, if the command has one.

    Raises:
        FailureError: The feature is unknown, or Redis does not answer whether it was set.
    """
    if feature in INITIAL:
        return
    forced = f" {unless} sets it anyway." if unless else ""
    try:
        [found] = rollouts.read(client, [feature], settings).values()
    except Exception as error:  # noqa: BLE001 - any error of the client
        said = without_secrets(error, settings)
        message = f"Redis does not say whether {feature} was ever set: {said}."
        raise FailureError(ExitCode.WRONG, message + forced) from None
    unknown = find_unknown(client, feature, found)
    if unknown is not None:
        document = {"did_you_mean": unknown.near, "known_features": unknown.known}
        raise FailureError(ExitCode.USAGE, unknown.message + forced, document)


def find_unknown(client: Any, feature: str, rollout: "RolloutAtStart") -> UnknownFeature | None:  # noqa: ANN401
    """Returns an `UnknownFeature` if no feature has this name, else None.

    Args:
        client: A client of Redis.
        feature: The name of the feature.
        rollout: The rollout that was read for the name.
    """
    if feature in INITIAL or rollout.source == "redis" or rollout.problem is not None:
        return None
    return UnknownFeature(feature, _known(client))


def _known(client: Any) -> list[str]:  # noqa: ANN401 - of either library
    """Returns every feature of this package and in Redis.

    If Redis cannot list them, returns those of this package.
    """
    try:
        return rollouts.every_feature(client)
    except Exception:  # noqa: BLE001 - any error of the client
        return sorted(INITIAL)
