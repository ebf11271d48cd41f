"""`sark-cache doctor`: checks the installation, the settings and the server."""

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
from sark_cache.cli.doctor.server_check import Examination, ExaminedServer

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

UserID: TypeAlias = Annotated[
    str | None,
    typer.Option("--user", metavar="ID", help="Show which backend serves this user, and why."),
]

HELP = (
    "Checks the installation, the settings and the connection to Redis.",
    (
        "Exits with 0 if all that is configured works, otherwise with 1. Changes nothing. Does not "
        "use a provider of OpenFeature, because a service sets it in its code."
    ),
)
EXAMPLES = (
    "sark-cache doctor",
    "sark-cache doctor --user alice",
    "sark-cache doctor --json | jq .redis.round_trip_ms",
    "SARK_CACHE_REDIS_URL=redis://localhost:6379/0 sark-cache doctor",
)


def doctor(user: UserID = None, redis_url: RedisURL = None, *, as_json: AsJSON = False) -> None:
    """Checks the installation, the settings and the server, and prints a report."""
    if user == "":
        message = "it is empty: omit it, or give a user"
        raise typer.BadParameter(message, param_hint="--user")
    with working("checking"):
        found = diagnose(user, redis_url)
    if as_json:
        write_json(found.document())
    else:
        print_report(found)
    if found.problems:
        raise typer.Exit(ExitCode.WRONG)


def print_report(found: Diagnosis) -> None:
    """Prints the report of a diagnosis to stdout, for people."""
    out = console()
    title(out, f"sark-cache {found.versions['sark_cache']}")
    python, platform = found.versions["python"], found.versions["platform"]
    rows(
        out,
        {"Python": f"{python} on {platform}", "native cache": _format_native(found.native)}
        | {f"[{extra}]": _format_extra(packages) for extra, packages in found.extras.items()},
    )
    if found.settings is not None:
        title(out, "Settings")
        rows(out, _format_settings(found.settings))
    if found.rollouts:
        title(out, "Rollouts")
        rows(out, {feature: rollout.summary for feature, rollout in found.rollouts.items()})
    if found.redis is not None:
        title(out, f"Redis at {found.redis.address}")
        rows(out, _format_redis(found.redis))
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


def _format_native(native: Native) -> str:
    if native.hit_nanoseconds is None:
        return "missing"
    works = "stores, finds and revokes" if native.works else "does not work"
    return f"{works}; a hit takes {duration(native.hit_nanoseconds / 1e9)}"


def _format_extra(packages: dict[str, str | None]) -> str:
    missing = [package for package, version in packages.items() if version is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return ", ".join(f"{package} {version}" for package, version in packages.items())


def _format_settings(settings: "CacheSettings") -> dict[str, str]:
    values = shown(settings)
    given = {name: str(values[name]) for name in values if name in settings.model_fields_set}
    others = f"{len(values) - len(given)} others"
    return {**given, others: "have their defaults: --json shows all"}


def _format_redis(redis: Examination) -> dict[str, str]:
    if not redis.reachable:
        return {"reachable": "no"}
    servers = {server.address: "; ".join(_server_facts(server)) for server in redis.servers}
    return {"topology": redis.topology, **servers}


def _server_facts(server: ExaminedServer) -> list[str]:
    facts = [server.version or "version unknown"]
    if server.role is not None:
        facts.append(server.role)
    if server.replicas is not None:
        facts.append(f"{counted(server.replicas, 'replica', 'replicas')} connected")
    if server.round_trip_ms is not None:
        facts.append(f"answers in {duration(server.round_trip_ms / 1e3)}")
    if server.runs_scripts is not None:
        facts.append("runs scripts" if server.runs_scripts else "runs no scripts")
    if server.maxmemory_bytes:
        mebibytes = server.maxmemory_bytes / 2**20
        facts.append(f"keeps at most {mebibytes:,.0f} MiB ({server.maxmemory_policy})")
    return facts
