"""`sark-cache flags`: rollout percentages looked at and moved, for all processes at once."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from sark_cache.cli._exit import ExitCode, FailureError, ending
from sark_cache.cli._options import AsJSON, Command, Group, RedisURL, taught
from sark_cache.cli._output import complain, console, rows, title, working, write_json
from sark_cache.cli._redis import asking, connected, of_commands, why
from sark_cache.cli._settings import settings_with_redis
from sark_cache.cli.flags import storage as rollouts
from sark_cache.cli.flags.features import require_known, unknown
from sark_cache.errors import FlagError
from sark_cache.rollout.manager import INITIAL, MOST_NAME_BYTES, is_name

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

flags: Final = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help=taught(
        "Shows and moves rollouts: the percentage of users that get a feature.",
        "They are kept in Redis, where every process of a service sees them change within a "
        "second. The feature rust_cache gives users the native cache.",
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
        metavar="PERCENT", min=0, max=100, help="The percentage of users that get it, 0 to 100."
    ),
]
Every: TypeAlias = Annotated[
    bool, typer.Option("--all", help="Every feature that flags list shows.")
]
Force: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Allow a feature that was never set before.")
]


@flags.command(
    "list",
    cls=Command,
    help=taught(
        "Lists every feature with its rollout.",
        "These are the features of this package, and those that were ever set in Redis. Exits with "
        "1 if a value in Redis is not a percentage.",
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
    help=taught(
        "Shows the rollout of one feature, or of all of them.",
        "Shows the value that a newly started process uses. A name that was never set gets a "
        "warning. Exits with 1 if the value in Redis is not a percentage.",
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
    help=taught(
        "Sets the percentage of users that get a feature.",
        "As it grows, users that are in stay in. A feature that was never set before takes "
        "--force, so that a misspelt name sets nothing. Exits with 1 if Redis did not confirm it.",
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
        message = f"it must be at most {MOST_NAME_BYTES} bytes long: choose a shorter name"
        raise typer.BadParameter(message, param_hint="FEATURE")
    with ending(as_json=as_json):
        settings = settings_with_redis(redis_url)
        _move(settings, feature, percent, force=force, as_json=as_json)


@flags.command(
    cls=Command,
    help=taught(
        "Sets the percentage of a feature, or of every one, to 0.",
        "Within a second nobody gets it, whatever a provider of OpenFeature says. Exits with 1 if "
        "Redis did not confirm it.",
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
    help=taught(
        "Removes the percentage of a feature from Redis.",
        "A process that starts afterwards uses the percentage of its settings. A process that "
        "runs keeps the last one that it saw: to take a feature back at once, use rollback. Exits "
        "with 1 if Redis did not confirm it.",
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
        rows(out, {feature: f"{done}; in a process that starts now: {now.told}"})


def _show(settings: "CacheSettings", feature: str | None, *, as_json: bool) -> None:
    """Shows the rollout of one feature, or of every one.

    Raises:
        FailureError: The server does not do its part.
        typer.Exit: It holds values that are no percentages.
    """
    with (
        working("reading rollouts"),
        connected(settings, of_commands(settings)) as client,
        asking(settings),
    ):
        features = [feature] if feature is not None else rollouts.everywhere(client)
        found = rollouts.read(client, features, settings)
        unheard_of = unknown(client, feature, found[feature]) if feature and not as_json else None
    if unheard_of is not None:
        complain("warning", unheard_of.message)
    problems = [one.problem for one in found.values() if one.problem is not None]
    if as_json:
        features_found = {name: asdict(one) for name, one in found.items()}
        write_json(
            {"ok": not problems, "redis": settings.redis_address, "features": features_found}
        )
    else:
        out = console()
        title(out, f"Rollouts in Redis at {settings.redis_address}")
        rows(out, {name: one.told for name, one in found.items()})
    for problem in problems:
        complain("problem", f"{problem}: {rollouts.NO_PERCENTAGE}")
    if problems:
        raise typer.Exit(ExitCode.WRONG)


def _move(
    settings: "CacheSettings", feature: str | None, percentage: int, *, force: bool, as_json: bool
) -> None:
    """Sets the percentage of one feature, or of every one, and says from where it moved.

    Of several, each is set, whatever becomes of the others.

    Raises:
        FailureError: Something could not be confirmed, or nobody knows the feature.
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
        {name: f"{percentage} % of users, {_told(before.get(name, '?'))}" for name in named},
    )


def _told(before: int | str | None) -> str:
    return "never set before" if before is None else f"before that {before} %"


def _every(client: Any, settings: "CacheSettings", faults: list[str]) -> list[str]:  # noqa: ANN401
    """Every feature that was ever set; those of this package if the others cannot be listed."""
    try:
        return rollouts.everywhere(client)
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        faults.append(
            f"features other than {', '.join(INITIAL)} cannot be listed, and are as they "
            f"were: {why(error, settings)}"
        )
        return list(INITIAL)


def _before(client: Any, features: list[str], settings: "CacheSettings") -> dict[str, int | None]:  # noqa: ANN401
    """The percentages that features had, None: never set. To set them is what matters.

    Empty if they cannot be read.
    """
    try:
        found = rollouts.read(client, features, settings)
    except Exception:  # noqa: BLE001 - whatever the client raises
        return {}
    return {
        name: None if one.source == "never set" else one.percentage for name, one in found.items()
    }


def _check(feature: str) -> None:
    if not feature or not feature.isprintable():
        message = "it must be printable text"
        raise typer.BadParameter(message, param_hint="FEATURE")
