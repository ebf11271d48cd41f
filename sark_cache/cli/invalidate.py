"""`sark-cache invalidate`: revokes decisions in Redis and in the caches that follow its log."""

import asyncio
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.prompt import Confirm
from rich.text import Text

from sark_cache._core.arguments import check_pattern
from sark_cache.backends.redis import PolicyCache
from sark_cache.backends.redis.settle import Progress, progress
from sark_cache.cli._exit import ExitCode, FailureError, ending
from sark_cache.cli._options import AsJSON, RedisURL
from sark_cache.cli._output import (
    complain,
    console,
    counted,
    printable,
    remark,
    working,
    write_json,
)
from sark_cache.cli._redis import connected, of_commands, url_of
from sark_cache.cli._settings import settings_with_redis
from sark_cache.errors import InvalidationError

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

WALK_SECONDS = 5.0
"""The timeout, in seconds, of each step of a scan over all keys, and of replicas to confirm it."""

User: TypeAlias = Annotated[
    str | None, typer.Option("--user", metavar="ID", help="Revoke decisions for this user.")
]
Action: TypeAlias = Annotated[
    str | None, typer.Option("--action", metavar="NAME", help="Revoke decisions on this action.")
]
Resource: TypeAlias = Annotated[
    str | None,
    typer.Option("--resource", metavar="ID", help="Revoke decisions on this resource."),
]
Tags: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--tag",
        metavar="NAME",
        help="Revoke decisions with this tag. Repeat it to revoke decisions with any of the tags.",
    ),
]
Policy: TypeAlias = Annotated[
    str | None,
    typer.Option("--policy", metavar="NAME", help="Revoke decisions of this policy."),
]
Pattern: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        metavar="GLOB",
        help="Revoke decisions whose key matches this Redis glob. A key is "
        "policy:decision:USER:ACTION:RESOURCE:CONTEXT. One of three spellings has to match: the "
        "percent-encoded one, the raw one, and the raw one with _ for each : and / in RESOURCE. "
        "Use it without the other options.",
    ),
]
Everything: TypeAlias = Annotated[
    bool,
    typer.Option("--everything", help="Revoke all decisions. Use it without the other options."),
]
Yes: TypeAlias = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask before revoking everything.")
]

EXAMPLES = (
    "sark-cache invalidate --user alice",
    "sark-cache invalidate --action delete --resource doc:1",
    "sark-cache invalidate --tag role:admin --tag role:auditor",
    "sark-cache invalidate --policy app.policies:may_read --user alice",
    "sark-cache invalidate --pattern 'policy:decision:guest-*'",
    "sark-cache invalidate --everything --yes",
)
HELP = (
    "Revokes decisions in Redis, and in every process that shares revocations through it.",
    (
        "With several options, revokes the decisions that match all of them. After exit code 0, "
        "no process serves one of these decisions, or stores one that was being evaluated. After "
        "exit code 1 or Ctrl-C, this is not certain: run the command again."
    ),
    (
        "Waits a little longer than SARK_CACHE_MAX_STALENESS, 1 s by default. By then, even a "
        "process that does not answer serves nothing from its memory. Shows on stderr how many "
        "processes have applied the revocation. With SARK_CACHE_SETTLE=false it does not wait, and "
        "a process may serve a revoked decision until that time has passed."
    ),
    (
        "Does not reach native caches that share no revocations: those of services without "
        "SARK_CACHE_REDIS_URL, or with SARK_CACHE_TIERED=false. They serve their decisions until "
        "the time to live is over."
    ),
)


@dataclass(frozen=True, slots=True)
class Revoked:
    """The decisions to revoke, as the options select them."""

    user_id: str | None
    action: str | None
    resource: str | None
    tags: list[str]
    policy: str | None
    pattern: str | None
    everything: bool

    def check(self) -> None:
        """Checks that the options select decisions.

        Raises:
            typer.BadParameter: No option is given, or options that cannot be combined are; or a
                value is empty, as that of an unset variable in a script.
        """
        given = [
            ("--user", self.user_id),
            ("--action", self.action),
            ("--resource", self.resource),
            ("--policy", self.policy),
            ("--pattern", self.pattern),
            *(("--tag", tag) for tag in self.tags),
        ]
        for name, value in given:
            if value == "":
                message = "it is empty: omit it, or give a value"
                raise typer.BadParameter(message, param_hint=name)
        if self.pattern is not None:
            try:
                check_pattern(self.pattern)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="--pattern") from None
        fields = (self.user_id, self.action, self.resource, self.policy)
        named = any(part is not None for part in fields)
        ways = [named or bool(self.tags), self.pattern is not None, self.everything]
        if sum(ways) == 0:
            message = (
                "no decisions are selected: give --user, --action, --resource, --policy or --tag, "
                "or --pattern, or --everything"
            )
            raise typer.BadParameter(message, param_hint="OPTIONS")
        if sum(ways) > 1:
            alone = "--pattern" if self.pattern is not None else "--everything"
            message = "it cannot be combined with another option that selects decisions: give one"
            raise typer.BadParameter(message, param_hint=alone)


@dataclass(frozen=True, slots=True)
class Revocation:
    """The result of the command."""

    entries: int
    """The number of entries removed from Redis."""
    processes: int
    """The number of processes that follow the log with a native cache."""
    applied: int
    """The number of those that had applied the revocation at the end."""


def invalidate(
    user: User = None,
    action: Action = None,
    resource: Resource = None,
    tag: Tags = None,
    policy: Policy = None,
    pattern: Pattern = None,
    *,
    everything: Everything = False,
    yes: Yes = False,
    redis_url: RedisURL = None,
    as_json: AsJSON = False,
) -> None:
    """Revokes decisions."""
    what = Revoked(user, action, resource, tag or [], policy, pattern, everything)
    what.check()
    with ending(as_json=as_json):
        settings = settings_with_redis(redis_url)
        if everything and not yes:
            _ask(settings)
        with working(f"revoking in Redis at {settings.redis_address}"):
            with connected(settings, of_commands(settings)):
                pass
            done = _revoke(settings, what, is_quiet=as_json)
        if as_json:
            write_json(
                {
                    "ok": True,
                    "redis": settings.redis_address,
                    "revoked": asdict(what),
                    "entries": done.entries,
                    "processes": done.processes,
                    "processes_that_applied_it": done.applied,
                }
            )
        else:
            _print_report(settings, what, done)


def _ask(settings: "CacheSettings") -> None:
    """Asks for confirmation that everything is to be revoked.

    Raises:
        FailureError: The answer is no, or stdin is not a terminal.
    """
    if not sys.stdin.isatty():
        message = "--everything revokes all decisions: confirm it with --yes"
        raise FailureError(ExitCode.USAGE, message)
    question = Text(f"Revoke all decisions in Redis at {printable(settings.redis_address or '')}?")
    if not Confirm.ask(question, console=console(stderr=True), default=False):
        message = "nothing was revoked"
        raise FailureError(ExitCode.WRONG, message)


def _revoke(settings: "CacheSettings", what: Revoked, *, is_quiet: bool) -> Revocation:
    """Revokes the decisions. Unless it is quiet, shows how many processes have applied it.

    Raises:
        FailureError: Redis did not confirm the revocation.
    """
    connect, command = of_commands(settings)
    cache = PolicyCache.from_url(
        url_of(settings),
        connect_timeout=connect,
        command_timeout=max(command, WALK_SECONDS),
        namespace=settings.namespace,
        replicas=settings.redis_replicas,
        settle=settings.settle,
        max_staleness=settings.max_staleness,
    )
    processes, applied = 0, 0

    def show(of_them: int, readers: int) -> None:
        nonlocal processes, applied
        processes, applied = readers, of_them
        if not is_quiet:
            counted_readers = counted(readers, "process", "processes")
            kind = "ok" if of_them == readers else "waiting"
            complain(kind, f"{of_them:,} of {counted_readers} with a native cache applied it")

    try:
        # The client of a cluster has long steps, of which asyncio's debug mode would warn.
        entries = asyncio.run(_revoke_with(cache, what, show), debug=False)
    except InvalidationError as error:
        raise FailureError(ExitCode.WRONG, str(error)) from None
    except KeyboardInterrupt:
        complain("error", "interrupted: the decisions may still be served. Run it again")
        raise

    return Revocation(entries, processes, applied)


async def _revoke_with(cache: PolicyCache, what: Revoked, show: Progress) -> int:
    progress.set(show)
    async with cache:
        if what.pattern is not None:
            return await cache.invalidate_pattern(what.pattern)
        if what.everything:
            await cache.clear()
            return cache.metrics.invalidations
        return await cache.invalidate(
            *(what.user_id, what.action, what.resource),
            tags=what.tags or None,
            policy=what.policy,
        )


def _print_report(settings: "CacheSettings", what: Revoked, done: Revocation) -> None:
    out = console()
    removed = counted(done.entries, "entry", "entries")
    remark(out, "ok", f"revoked in Redis at {settings.redis_address}: {removed} removed there")
    if what.pattern is not None and not done.entries:
        out.print("Keys look like this: policy:decision:USER:ACTION:RESOURCE:CONTEXT")
    if done.applied < done.processes:
        late = counted(done.processes - done.applied, "process does", "processes do")
        out.print(f"{late} not answer, and will apply it before serving anything.")
    out.print(
        "Native caches that share no revocations are not reached: they serve their decisions until "
        f"the time to live is over, {settings.cache_ttl:g} s unless the service sets another.",
    )
