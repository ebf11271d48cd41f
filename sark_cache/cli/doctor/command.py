"""`sark-cache doctor`: what is installed, configured and reachable, and whether it works."""

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from sark_cache.cli._exit import ExitCode
from sark_cache.cli._options import AsJSON, RedisURL
from sark_cache.cli._output import (
    console,
    counted,
    duration,
    remark,
    rows,
    title,
    working,
    write_json,
)
from sark_cache.cli.doctor.environment import Native
from sark_cache.cli.doctor.report import Diagnosis, diagnose, shown
from sark_cache.cli.doctor.server_check import Examination, Server

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

UserID: TypeAlias = Annotated[
    str | None,
    typer.Option("--user", metavar="ID", help="Show which backend serves this user, and why."),
]

HELP = (
    "Looks at what is installed, configured and reachable, and whether it works.",
    (
        "Exits with 0 if all that is configured works, else with 1. Changes nothing. Does not see "
        "a provider that a service sets for OpenFeature."
    ),
)
EXAMPLES = (
    "sark-cache doctor",
    "sark-cache doctor --user alice",
    "sark-cache doctor --json | jq .redis.round_trip_ms",
    "SARK_CACHE_REDIS_URL=redis://localhost:6379/0 sark-cache doctor",
)


def doctor(user: UserID = None, redis_url: RedisURL = None, *, as_json: AsJSON = False) -> None:
    """Looks at everything."""
    if user == "":
        message = "it is empty: leave it out, or give a user"
        raise typer.BadParameter(message, param_hint="--user")
    with working("looking"):
        found = diagnose(user, redis_url)
    if as_json:
        write_json(found.document())
    else:
        _tell(found)
    if found.problems:
        raise typer.Exit(ExitCode.WRONG)


def _tell(found: Diagnosis) -> None:
    out = console()
    title(out, f"sark-cache {found.versions['sark_cache']}")
    python, platform = found.versions["python"], found.versions["platform"]
    rows(
        out,
        {"Python": f"{python} on {platform}", "native cache": _told_of_native(found.native)}
        | {f"[{extra}]": _told_of_extra(packages) for extra, packages in found.extras.items()},
    )
    if found.settings is not None:
        title(out, "Settings")
        rows(out, _told_of_settings(found.settings))
    if found.rollouts:
        title(out, "Rollouts")
        rows(out, {feature: rollout.told for feature, rollout in found.rollouts.items()})
    if found.redis is not None:
        title(out, f"Redis at {found.redis.address}")
        rows(out, _told_of_redis(found.redis))
    if found.choice is not None:
        title(out, f"Backend for {found.user}")
        rows(out, {found.choice.backend: found.choice.reason})
    title(out, "Verdict")
    for problem in found.problems:
        remark(out, "problem", problem)
    for warning in found.warnings:
        remark(out, "warning", warning)
    if found.warnings and not found.problems:
        above = counted(len(found.warnings), "warning stands", "warnings stand")
        remark(out, "warning", f"all that is configured works, but {above} above")
    elif not found.problems:
        remark(out, "ok", "all that is configured works")


def _told_of_native(native: Native) -> str:
    if native.hit_nanoseconds is None:
        return "missing"
    works = "stores, finds and revokes" if native.works else "does not work"
    return f"{works}; a hit takes {duration(native.hit_nanoseconds / 1e9)}"


def _told_of_extra(packages: dict[str, str | None]) -> str:
    missing = [package for package, version in packages.items() if version is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return ", ".join(f"{package} {version}" for package, version in packages.items())


def _told_of_settings(settings: "CacheSettings") -> dict[str, str]:
    values = shown(settings)
    here = {name: str(values[name]) for name in values if name in settings.model_fields_set}
    return {**here, f"{len(values) - len(here)} others": "are at their defaults: --json shows all"}


def _told_of_redis(redis: Examination) -> dict[str, str]:
    if not redis.reachable:
        return {"reachable": "no"}
    servers = {server.address: "; ".join(_told_of_server(server)) for server in redis.servers}
    return {"topology": redis.topology, **servers}


def _told_of_server(server: Server) -> list[str]:
    told = [server.version or "version unknown"]
    if server.role is not None:
        told.append(server.role)
    if server.replicas is not None:
        told.append(f"{counted(server.replicas, 'replica', 'replicas')} connected")
    if server.round_trip_ms is not None:
        told.append(f"answers in {duration(server.round_trip_ms / 1e3)}")
    if server.runs_scripts is not None:
        told.append("runs scripts" if server.runs_scripts else "runs no scripts")
    if server.maxmemory_bytes:
        mebibytes = server.maxmemory_bytes / 2**20
        told.append(f"keeps at most {mebibytes:,.0f} MiB ({server.maxmemory_policy})")
    if server.snapshots is None and server.version is not None:
        told.append("does not show whether it saves snapshots (CONFIG GET)")
    return told
