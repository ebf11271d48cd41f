"""`sark-cache flags`: shows and changes rollout percentages, for all processes at once."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from sark_cache.cli._exit import ExitCode, FailureError, ending
from sark_cache.cli._options import AsJSON, Command, Group, RedisURL, help_text
from sark_cache.cli._output import complain, console, rows, title, working, write_json
from sark_cache.cli._redis import asking, connected, of_commands, without_secrets
from sark_cache.cli._settings import settings_with_redis
from sark_cache.cli.flags import storage as rollouts
from sark_cache.cli.flags.features import find_unknown, require_known
from sark_cache.errors import FlagError
from sark_cache.rollout.manager import INITIAL, MOST_NAME_BYTES, is_name

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

flags: Final = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help=help_text(
        "Shows and changes rollouts: the percentage of users that get a feature.",
        "Percentages are stored in Redis. Every process of a service sees a change within a "
        "second. Users with the feature rust_cache are served by the native cache.",
        examples=(
            "sark-cache flags list",
            "sark-cache flags set rust_cache 25",
            "sark-cache flags rollback rust_cache",
        ),
    ),
)

FEATURE_HELP = "The feature's name, such as rust_cache."
Feature: TypeAlias = Annotated[str, typer.Argument(metavar="FEATURE", help=FEATURE_HELP)]
FeatureIfAny: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="FEATURE", help=FEATURE_HELP, show_default=False)
]
Percent: TypeAlias = Annotated[
    int,
    typer.Argument(
        metavar="PERCENT", min=0, max=100, help="The percentage of users that get the feature."
    ),
]
Every: TypeAlias = Annotated[
    bool, typer.Option("--all", help="Set every feature that flags list shows to 0.")
]
Force: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Accept a name that was never set before. Without it, the command refuses the name, "
        "because it may be misspelt.",
    ),
]


@flags.command(
    "list",
    cls=Command,
    help=help_text(
        "Lists every feature with its rollout.",
        "The list has the features of this package, and all others that are set in Redis. Exits "
        "with 1 if a value in Redis is not a percentage.",
        examples=(
            "sark-cache flags list",
            "sark-cache flags list --json | jq '.features | keys'",
        ),
    ),
)
def list_all(redis_url: RedisURL = None, *, as_json: AsJSON = False) -> None:
    """Lists rollouts."""
    with ending(as_json=as_json):
        _show(settings_with_redis(redis_url), None, as_json=as_json)


@flags.command(
    cls=Command,
    help=help_text(
        "Shows the rollout of one feature, or of all of them.",
        "The percentage is the one that a process uses if it starts now. Prints a warning if no "
        "feature has this name. Exits with 1 if the value in Redis is not a percentage.",
        examples=(
            "sark-cache flags get",
            "sark-cache flags get rust_cache",
            "sark-cache flags get rust_cache --json | jq .features",
        ),
    ),
)
def get(
    feature: FeatureIfAny = None, redis_url: RedisURL = None, *, as_json: AsJSON = False
) -> None:
    """Shows rollouts."""
    if feature is not None:
        _check(feature)
    with ending(as_json=as_json):
        _show(settings_with_redis(redis_url), feature, as_json=as_json)


@flags.command(
    "set",
    cls=Command,
    help=help_text(
        "Sets the percentage of users that get a feature.",
        "If you increase the percentage, users that have the feature keep it. Exits with 1 if "
        "Redis does not confirm the change.",
        examples=(
            "sark-cache flags set rust_cache 5",
            "sark-cache flags set rust_cache 100 --redis-url redis://localhost:6379/0",
            "sark-cache flags set new_report 10 --force",
        ),
    ),
)
def set_percentage(
    feature: Feature,
    percent: Percent,
    redis_url: RedisURL = None,
    *,
    force: Force = False,
    as_json: AsJSON = False,
) -> None:
    """Sets one percentage."""
    _check(feature)
    if not is_name(feature):
        message = f"it must have at most {MOST_NAME_BYTES} bytes: choose a shorter name"
        raise typer.BadParameter(message, param_hint="FEATURE")
    with ending(as_json=as_json):
        settings = settings_with_redis(redis_url)
        _move(settings, feature, percent, force=force, as_json=as_json)


@flags.command(
    cls=Command,
    help=help_text(
        "Sets the percentage of one feature, or of all features, to 0.",
        "Within a second no user has the feature, even if a provider of OpenFeature says "
        "otherwise. Exits with 1 if Redis does not confirm the change.",
        examples=(
            "sark-cache flags rollback rust_cache",
            "sark-cache flags rollback --all",
        ),
    ),
)
def rollback(
    feature: FeatureIfAny = None,
    *,
    every: Every = False,
    redis_url: RedisURL = None,
    force: Force = False,
    as_json: AsJSON = False,
) -> None:
    """Sets percentages to 0."""
    if (feature is None) is not every:
        message = "give either a feature or --all"
        raise typer.BadParameter(message, param_hint="FEATURE")
    if feature is not None:
        _check(feature)
    with ending(as_json=as_json):
        settings = settings_with_redis(redis_url)
        _move(settings, feature, 0, force=force, as_json=as_json)


@flags.command(
    cls=Command,
    help=help_text(
        "Removes the percentage of a feature from Redis.",
        "A process that starts afterwards uses the percentage of its settings. A running process "
        "keeps the last percentage that it read. To withdraw a feature at once, use rollback. "
        "Exits with 1 if Redis does not confirm the change.",
        examples=(
            "sark-cache flags remove new_report",
            "sark-cache flags remove rust_cache --json | jq .features",
        ),
    ),
)
def remove(feature: Feature, redis_url: RedisURL = None, *, as_json: AsJSON = False) -> None:
    """Removes one percentage."""
    _check(feature)
    with ending(as_json=as_json):
        settings = settings_with_redis(redis_url)
        with (
            working("removing a rollout"),
            connected(settings, of_commands(settings)) as client,
        ):
            require_known(client, feature, settings)
            with asking(settings):
                removed = rollouts.remove(client, feature)
        now = rollouts.initial(feature, settings)
        if as_json:
            fact = {"removed": removed, **asdict(now)}
            write_json({"ok": True, "redis": settings.redis_address, "features": {feature: fact}})
            return
        out = console()
        title(out, f"Removed from Redis at {settings.redis_address}")
        done = "removed" if removed else "was not set"
        rows(out, {feature: f"{done}; in a process that starts now: {now.summary}"})


def _show(settings: "CacheSettings", feature: str | None, *, as_json: bool) -> None:
    """Shows the rollout of one feature, or of every one.

    Raises:
        FailureError: Redis does not answer.
        typer.Exit: A value in Redis is not a percentage.
    """
    with (
        working("reading rollouts"),
        connected(settings, of_commands(settings)) as client,
        asking(settings),
    ):
        features = [feature] if feature is not None else rollouts.every_feature(client)
        found = rollouts.read(client, features, settings)
        unknown = find_unknown(client, feature, found[feature]) if feature and not as_json else None
    if unknown is not None:
        complain("warning", unknown.message)
    problems = [rollout.problem for rollout in found.values() if rollout.problem is not None]
    if as_json:
        features_found = {name: asdict(rollout) for name, rollout in found.items()}
        write_json(
            {"ok": not problems, "redis": settings.redis_address, "features": features_found}
        )
    else:
        out = console()
        title(out, f"Rollouts in Redis at {settings.redis_address}")
        rows(out, {name: rollout.summary for name, rollout in found.items()})
    for problem in problems:
        complain("problem", f"{problem}: {rollouts.NO_PERCENTAGE}")
    if problems:
        raise typer.Exit(ExitCode.WRONG)


def _move(
    settings: "CacheSettings", feature: str | None, percentage: int, *, force: bool, as_json: bool
) -> None:
    """Sets the percentage of one feature, or of every one, and prints the previous ones.

    A failure to set one feature does not keep the others from being set.

    Raises:
        FailureError: Redis did not confirm a change, or the feature is unknown.
    """
    faults: list[str] = []
    with working("setting rollouts"), connected(settings, of_commands(settings)) as client:
        if feature is not None and not force:
            require_known(client, feature, settings, unless="--force")
        named = [feature] if feature is not None else _every(client, settings, faults)
        before = _before(client, named, settings)
        try:
            rollouts.write(client, dict.fromkeys(named, percentage), settings)
        except FlagError as error:
            faults.append(str(error))
    if faults:
        raise FailureError(ExitCode.WRONG, "; ".join(faults))
    if as_json:
        moved = {name: {"before": before.get(name), "percentage": percentage} for name in named}
        write_json({"ok": True, "redis": settings.redis_address, "features": moved})
        return
    out = console()
    title(out, f"Set in Redis at {settings.redis_address}; processes see it within a second")
    rows(
        out,
        {name: f"{percentage} % of users, {_previous(before.get(name, '?'))}" for name in named},
    )


def _previous(before: int | str | None) -> str:
    return "never set before" if before is None else f"before that {before} %"


def _every(client: Any, settings: "CacheSettings", faults: list[str]) -> list[str]:  # noqa: ANN401
    """Returns every feature of this package and in Redis.

    If Redis cannot list them, returns those of this package, and adds the error to `faults`.
    """
    try:
        return rollouts.every_feature(client)
    except Exception as error:  # noqa: BLE001 - any error of the client
        faults.append(
            f"features other than {', '.join(INITIAL)} cannot be listed, and were not "
            f"changed: {without_secrets(error, settings)}"
        )
        return list(INITIAL)


def _before(client: Any, features: list[str], settings: "CacheSettings") -> dict[str, int | None]:  # noqa: ANN401
    """Returns the percentages of features before a change; None for one that was never set.

    Returns an empty dict if they cannot be read, because the change is made anyway.
    """
    try:
        found = rollouts.read(client, features, settings)
    except Exception:  # noqa: BLE001 - any error of the client
        return {}
    return {
        name: None if rollout.source == "never set" else rollout.percentage
        for name, rollout in found.items()
    }


def _check(feature: str) -> None:
    if not feature or not feature.isprintable():
        message = "it must be printable text"
        raise typer.BadParameter(message, param_hint="FEATURE")
