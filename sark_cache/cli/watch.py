"""`sark-cache watch-consistency`: measures how long a fleet can serve a revoked decision.

It runs beside services in production. In each round it stores a decision about an invented user,
revokes it, and measures the time until no process can serve it any more. It reads the
acknowledgements of the processes, so it does not trust its own cache about them.
"""

import asyncio
import signal
from collections import deque
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from secrets import token_hex
from time import perf_counter, strftime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from sark_cache.backends.redis import PolicyCache
from sark_cache.backends.redis.settle import LostError, progress
from sark_cache.cli._exit import ExitCode, FailureError, ending
from sark_cache.cli._options import AsJSON, RedisURL
from sark_cache.cli._output import console, counted, duration, remark, rows, title, write_json
from sark_cache.cli._redis import connected, of_commands, url_of
from sark_cache.cli._settings import settings_with_redis
from sark_cache.errors import InvalidationError
from sark_cache.metrics import SETTLE_BOUNDS_SECONDS

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

    from sark_cache.settings import CacheSettings

STEP_SECONDS = 5.0
"""The time-out of each step of a revocation, in seconds."""
GRACE_SECONDS = 0.25
"""The time by which a revocation may exceed its bound, for the round trips of its confirmation."""
MOST_DURATIONS = 100_000
"""The number of durations that are kept: those of the last rounds."""
WIDTH = 40
"""The width of the longest bar of the histogram, in characters."""

Every: TypeAlias = Annotated[
    float, typer.Option("--every", metavar="SECONDS", min=0.01, help="The pause between rounds.")
]
Rounds: TypeAlias = Annotated[
    int | None,
    typer.Option("--rounds", metavar="NUMBER", min=1, help="Stop after this number of rounds."),
]
Port: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--prometheus",
        metavar="PORT",
        min=1,
        max=65535,
        help="Serve the measurements for Prometheus on this port. Requires prometheus-client.",
    ),
]

EXAMPLES = (
    "sark-cache watch-consistency",
    "sark-cache watch-consistency --rounds 100 --every 0.1 --json",
    "sark-cache watch-consistency --prometheus 9108",
)
HELP = (
    "Measures how long processes can serve a decision after its revocation.",
    (
        "In each round, stores a decision about an invented user in Redis, revokes it, and waits "
        "until every process that shares revocations has applied the revocation. Runs until "
        "Ctrl-C, then prints a histogram. It can run beside services in production: a round writes "
        "two keys and one record, and affects no decision of the services."
    ),
    (
        "Exits with 1 if a promise was broken: if the decision was still served, if the "
        "revocation took longer than 1.1 times SARK_CACHE_MAX_STALENESS plus 0.25 s, or if a "
        "confirmed revocation was lost. A revocation that is not confirmed, because Redis does not "
        "answer, is counted, but breaks no promise."
    ),
)


@dataclass(slots=True)
class Watched:
    """The results of all rounds."""

    rounds: int = 0
    unconfirmed: int = 0
    violations: list[str] = field(default_factory=list[str])
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_DURATIONS))
    """The durations of confirmed revocations, until no process could serve the decision."""
    processes: int = 0
    """The number of processes in the last round that share revocations."""
    applied: int = 0
    """The number of those that acknowledged the revocation of the last round."""

    def percentile(self, part: float) -> float:
        """Returns the duration below which a part of the revocations is. 0: there were none."""
        rising = sorted(self.seconds)
        return rising[min(len(rising) - 1, int(part * len(rising)))] if rising else 0.0


def watch_consistency(
    every: Every = 5.0,
    rounds: Rounds = None,
    prometheus: Port = None,
    *,
    redis_url: RedisURL = None,
    as_json: AsJSON = False,
) -> None:
    """Measures how long revoked decisions can be served."""
    with ending(as_json=as_json):
        settings = settings_with_redis(redis_url)
        with connected(settings, of_commands(settings)):
            pass
        exported = _export(prometheus)
        watched = Watched()
        watch = _Watch(settings, watched, exported, is_quiet=as_json)
        asyncio.run(watch.run(every, rounds), debug=False)
        if as_json:
            write_json(
                {
                    "ok": not watched.violations,
                    "redis": settings.redis_address,
                    **{name: value for name, value in asdict(watched).items() if name != "seconds"},
                    "p50_seconds": watched.percentile(0.5),
                    "p99_seconds": watched.percentile(0.99),
                    "longest_seconds": max(watched.seconds, default=0.0),
                }
            )
        else:
            _print_report(watched)
        if watched.violations:
            raise typer.Exit(ExitCode.WRONG)


class _Watch:
    """The rounds of one run.

    Args:
        settings: The settings of the command.
        watched: Gets the results.
        exported: The metrics for Prometheus. None: they are not exported.
        is_quiet: If True, prints no line for each round.
    """

    def __init__(
        self,
        settings: "CacheSettings",
        watched: Watched,
        exported: "_Exported | None",
        *,
        is_quiet: bool,
    ) -> None:
        connect, command = of_commands(settings)
        self._cache = PolicyCache.from_url(
            url_of(settings),
            connect_timeout=connect,
            command_timeout=max(command, STEP_SECONDS),
            namespace=settings.namespace,
            replicas=settings.redis_replicas,
            max_staleness=settings.max_staleness,
        )
        self._watched = watched
        self._exported = exported
        self._is_quiet = is_quiet

    async def run(self, every: float, rounds: int | None) -> None:
        """Runs rounds until the number is reached, or Ctrl-C."""
        stopped = asyncio.Event()
        progress.set(self._note)
        with _stopping(stopped):
            async with self._cache:
                # A process believes acknowledgements when it has known the log for a span.
                await self._cache.health_check()
                await self._pause(stopped, self._cache.settle_limit)
                while not stopped.is_set() and self._watched.rounds != rounds:
                    await self._round()
                    if self._watched.rounds != rounds:
                        await self._pause(stopped, every)

    @staticmethod
    async def _pause(stopped: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), seconds)

    async def _round(self) -> None:
        watched = self._watched
        watched.rounds += 1
        canary = (f"sark-cache-canary-{token_hex(8)}", "watch", "consistency")
        decision = {"allow": True, "canary": True}
        await self._cache.set(*canary, decision, ttl_seconds=60)
        began = perf_counter()
        try:
            # It knows the key, so the time does not depend on the number of keys on the server.
            await self._cache.delete(*canary, policy="")
        except InvalidationError as error:
            watched.unconfirmed += 1
            if isinstance(error.__cause__, LostError):
                self._violate(f"a confirmed revocation was lost: {error}")
            else:
                self._say("warning", str(error))
            self._count()
            return
        spent = perf_counter() - began
        watched.seconds.append(spent)
        self._count(spent)
        if await self._cache.get(*canary) is not None:
            self._violate("Redis served the decision after its revocation")
        bound = self._cache.settle_limit + GRACE_SECONDS
        if spent > bound:
            self._violate(f"a revocation took {duration(spent)}; its bound is {bound:g} s")
        processes = counted(watched.processes, "process", "processes")
        self._say("ok", f"{duration(spent)}, applied by {watched.applied} of {processes}")

    def _note(self, applied: int, processes: int) -> None:
        self._watched.applied, self._watched.processes = applied, processes

    def _violate(self, what: str) -> None:
        self._watched.violations.append(f"{strftime('%Y-%m-%d %H:%M:%S')} {what}")
        self._say("problem", what)
        if self._exported is not None:
            self._exported.violations.inc()

    def _count(self, spent: float | None = None) -> None:
        if self._exported is None:
            return
        if spent is None:
            self._exported.unconfirmed.inc()
        else:
            self._exported.seconds.observe(spent)

    def _say(self, kind: str, text: str) -> None:
        if not self._is_quiet:
            remark(console(), kind, f"{strftime('%H:%M:%S')} {text}")


@dataclass(frozen=True, slots=True)
class _Exported:
    """The metrics for Prometheus."""

    seconds: "Histogram"
    unconfirmed: "Counter"
    violations: "Counter"


def _export(port: int | None) -> _Exported | None:
    """Serves metrics on a port. None: no port is given.

    Raises:
        FailureError: prometheus-client is not installed, or the port cannot be used.
    """
    if port is None:
        return None
    try:
        from prometheus_client import (  # noqa: PLC0415 - an extra
            CollectorRegistry,
            Counter,
            Histogram,
            start_http_server,
        )
    except ModuleNotFoundError:
        message = "--prometheus requires prometheus-client: pip install 'sark-cache[prometheus]'"
        raise FailureError(ExitCode.MISSING, message) from None
    registry = CollectorRegistry()
    exported = _Exported(
        Histogram(
            "sark_cache_watch_settle_seconds",
            "The time until no process could serve a revoked decision.",
            buckets=SETTLE_BOUNDS_SECONDS,
            registry=registry,
        ),
        Counter(
            "sark_cache_watch_unconfirmed",
            "Revocations that Redis did not confirm.",
            registry=registry,
        ),
        Counter("sark_cache_watch_violations", "Broken promises.", registry=registry),
    )
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        message = f"--prometheus {port}: {error.strerror}"
        raise FailureError(ExitCode.USAGE, message) from None
    return exported


@contextmanager
def _stopping(stopped: asyncio.Event) -> Generator[None]:
    """Sets an event at Ctrl-C, in place of an interrupt, and at the signal to end."""
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        loop.call_soon_threadsafe(stopped.set)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_report(watched: Watched) -> None:
    out = console()
    title(out, "Time until no process could serve a revoked decision")
    bars = _bars(watched.seconds)
    most = max((count for _, count in bars), default=1)
    rows(
        out, {name: f"{'█' * -(-WIDTH * count // most)} {count:,}".strip() for name, count in bars}
    )
    facts = {
        "rounds": f"{watched.rounds:,}",
        "not confirmed": f"{watched.unconfirmed:,}",
        "p50": duration(watched.percentile(0.5)),
        "p99": duration(watched.percentile(0.99)),
        "longest": duration(max(watched.seconds, default=0.0)),
    }
    rows(out, facts)
    if watched.violations:
        broken = counted(len(watched.violations), "promise was", "promises were")
        remark(out, "problem", f"{broken} broken")
        for violation in watched.violations:
            out.print(f"  {violation}")
    else:
        remark(out, "ok", "no promise was broken")


def _bars(seconds: Collection[float]) -> list[tuple[str, int]]:
    """Returns the number of durations below each bound that is needed, and above the one before."""
    bars: list[tuple[str, int]] = []
    below = 0
    for bound in SETTLE_BOUNDS_SECONDS:
        count = sum(one < bound for one in seconds) - below
        below += count
        if count or (bars and below < len(seconds)):
            bars.append((f"< {duration(bound)}", count))
    return bars
