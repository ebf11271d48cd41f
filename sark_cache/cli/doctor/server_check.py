"""The examination of Redis: its topology, its round trips, and the commands that it refuses.

It changes nothing. A command that it tries on a key names one that does not exist.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sark_cache._core import redis_urls as urls
from sark_cache._core.arguments import MIN_MAX_STALENESS
from sark_cache._core.errors import describe
from sark_cache._core.keys import prefix_of
from sark_cache.backends.redis.log import InvalidationLog
from sark_cache.backends.redis.permissions import (
    CHECK,
    FOR_READERS,
    FOR_REPLICAS,
    FOR_TIERS,
    FORBIDDEN,
    Findings,
    in_scripts,
    is_of_keys,
    refusal,
)
from sark_cache.backends.tiered.failover import FAILOVER_SETTINGS, SILENCE_SECONDS, of_sentinels
from sark_cache.cli._exit import FailureError
from sark_cache.cli._output import counted, milliseconds
from sark_cache.cli._redis import (
    connected,
    is_cluster,
    of_commands,
    of_requests,
    primaries_of,
    url_of,
    without_secrets,
)
from sark_cache.cli.flags import storage as rollouts
from sark_cache.cli.flags.storage import RolloutAtStart
from sark_cache.rollout.manager import INITIAL
from sark_cache.selection.registry import is_tiered

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

PINGS = 20

OF_KEYS = "for the cache's keys"
"""Ends the reason of a command that is refused for its key alone."""


def tried(key: str) -> dict[str, tuple[str | int, ...]]:
    """Returns the commands that the caches send, in a form that changes nothing.

    Args:
        key: A key that does not exist.
    """
    return {
        "GET": ("GET", key),
        "PTTL": ("PTTL", key),
        "SET": ("SET", key, "", "XX", "PX", 1),
        "UNLINK": ("UNLINK", key),
        "XADD": ("XADD", key, "NOMKSTREAM", "*", "n", ""),
        "XRANGE": ("XRANGE", key, "-", "+", "COUNT", 1),
        "XREVRANGE": ("XREVRANGE", key, "+", "-", "COUNT", 1),
        "XREAD": ("XREAD", "COUNT", 1, "STREAMS", key, "$"),
        "HGETALL": ("HGETALL", key),
        "HMGET": ("HMGET", key, "n"),
        "HEXISTS": ("HEXISTS", key, "n"),
        "HLEN": ("HLEN", key),
        "HDEL": ("HDEL", key, "n"),
        "TIME": ("TIME",),
        "SCAN": ("SCAN", 0, "MATCH", key, "COUNT", 1),
        "WAIT": ("WAIT", 0, 1),
        "ROLE": ("ROLE",),
        "INFO": ("INFO", "server"),
        "EVAL": ("EVAL", CHECK, 1, key),
    }


TOPOLOGIES = {"": "server", "unix": "server", "sentinel": "sentinel", "cluster": "cluster"}


@dataclass(slots=True)
class ExaminedServer:
    """A primary server. None means that it did not say."""

    address: str
    version: str | None = None
    role: str | None = None
    replicas: int | None = None
    """The number of connected replicas."""
    round_trip_ms: float | None = None
    """The median of `PINGS` round trips."""
    runs_scripts: bool | None = None
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """The commands of the caches that it refuses, each with the reason."""
    counts_replicas: bool | None = None
    """True if it answers how many replicas it has."""
    reports_history: bool | None = None
    """True if it reports the id of its replication, by which a restart is noticed."""
    snapshots: str | None = None
    """Its setting `save`, the times at which it saves a snapshot; empty: never."""
    appends: bool | None = None
    """True if it keeps an append-only file."""
    maxmemory_bytes: int | None = None
    """Its memory limit; 0: no limit."""
    maxmemory_policy: str | None = None
    cluster_state: str | None = None
    """The state of its cluster: `ok` or `fail`."""
    failover_seconds: float | None = None
    """The time after which Sentinels or the cluster may replace it if it does not answer."""


@dataclass(slots=True)
class Examination:
    """The results of an examination."""

    address: str
    topology: str
    """`server`, `sentinel` or `cluster`."""
    reachable: bool = False
    in_time: bool = False
    """True if Redis also answers within the timeouts of a request."""
    servers: list[ExaminedServer] = field(default_factory=list[ExaminedServer])
    rollouts: dict[str, RolloutAtStart] = field(default_factory=dict[str, RolloutAtStart])
    problems: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])

    @property
    def round_trip_ms(self) -> float | None:
        """Returns the longest of the servers' round trips."""
        times = [each.round_trip_ms for each in self.servers if each.round_trip_ms is not None]
        return max(times, default=None)


def examine(settings: "CacheSettings") -> Examination:
    """Examines the servers of the settings."""
    topology = TOPOLOGIES[urls.parse(url_of(settings)).topology]
    found = Examination(str(settings.redis_address), topology, in_time=_is_in_time(settings))
    try:
        with connected(settings, of_commands(settings)) as client:
            found.reachable = True
            _examine_primaries(found, client, settings)
    except FailureError as failure:
        found.problems.append(str(failure))
    _judge(found, settings)
    return found


def _is_in_time(settings: "CacheSettings") -> bool:
    try:
        with connected(settings, of_requests(settings)):
            return True
    except FailureError:
        return False


def _examine_primaries(found: Examination, client: Any, settings: "CacheSettings") -> None:  # noqa: ANN401
    for primary in primaries_of(client):
        server = ExaminedServer(primary.address)
        found.servers.append(server)
        try:
            keys = (
                f"{prefix_of(settings.namespace)}.doctor",
                f"{InvalidationLog(settings.namespace).key}.doctor",
            )
            _examine(server, primary.client, keys)
            server.failover_seconds = _failover_seconds(client, primary.client, found.topology)
            if is_cluster(client):
                state: dict[str, str] = primary.client.execute_command("CLUSTER INFO")
                server.cluster_state = state.get("cluster_state")
        except Exception as error:  # noqa: BLE001 - any error of the client
            found.problems.append(f"{primary.address}: {without_secrets(error, settings)}")
    try:
        found.rollouts = rollouts.read(client, INITIAL, settings)
    except Exception as error:  # noqa: BLE001 - any error of the client
        cure = ""
        if refusal(error) is not None:
            cure = ". Grant it to the user: ACL SETUSER <user> +get ~feature_flag:*"
        found.problems.append(f"rollouts cannot be read: {without_secrets(error, settings)}{cure}")


def _examine(server: ExaminedServer, client: Any, keys: tuple[str, str]) -> None:  # noqa: ANN401
    """Examines one server.

    Args:
        server: The results.
        client: The client of the server, of either library.
        keys: Unused keys: one of decisions, and one of the log.

    Raises:
        Exception: An error of the client: the server does not answer.
    """
    times: list[float] = []
    for _ in range(PINGS):
        started = perf_counter()
        client.ping()
        times.append(perf_counter() - started)
    server.round_trip_ms = milliseconds(median(times))
    refusals = _try(server, client, keys[1]) | _try(server, client, keys[0])
    server.runs_scripts = "EVAL" not in server.refused
    server.counts_replicas = Findings(refusals).uncounted is None
    server.reports_history = False
    if "INFO" not in server.refused:
        _read(server, client.info())
    with suppress(Exception):  # many servers do not show their configuration
        server.snapshots = str(client.config_get("save")["save"])


def _read(server: ExaminedServer, info: dict[str, Any]) -> None:
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version")
    server.version = f"{name} {version}"
    server.role = {"master": "primary", "slave": "replica"}.get(str(info.get("role")))
    server.replicas = info.get("connected_slaves")
    server.reports_history = bool(str(info.get("master_replid") or "").strip("0"))
    server.maxmemory_bytes = info.get("maxmemory")
    server.maxmemory_policy = info.get("maxmemory_policy")
    if "aof_enabled" in info:
        server.appends = bool(info["aof_enabled"])


def _failover_seconds(client: Any, primary: Any, topology: str) -> float | None:  # noqa: ANN401
    """Returns the time after which a silent primary may be replaced. None: it is not shown."""
    with suppress(Exception):  # many users may not ask for it
        if topology == "cluster":
            return float(primary.config_get("cluster-node-timeout")["cluster-node-timeout"]) / 1e3
        if topology == "sentinel":
            pool = client.connection_pool
            return of_sentinels(pool.sentinel_manager.sentinels, pool.service_name)
    return None


def _try(server: ExaminedServer, client: Any, key: str) -> dict[str, str]:  # noqa: ANN401 - of either library
    """Tries every command, and stores the refused ones in `server.refused`.

    Returns:
        The commands that the user of Redis has no right to, each with the error text.
    """
    refusals: dict[str, str] = {}
    for name, command in tried(key).items():
        try:
            reply = client.execute_command(*command)
            if name == "EVAL":
                # A command that was refused outside a script keeps its own reason.
                server.refused = in_scripts(reply) | server.refused
        except Exception as error:  # noqa: BLE001 - any error of the client
            if "moved" in describe(error).lower():
                continue  # the key belongs to another server, which is examined, too
            server.refused[name] = _reason(error)
            if (text := refusal(error)) is not None:
                refusals[name] = text
    return refusals


def _reason(error: Exception) -> str:
    """Returns the reason of a refusal: the kind of error, and a note if it is about the key."""
    return f"{describe(error)}, {OF_KEYS}" if is_of_keys(error) else describe(error)


def _judge(found: Examination, settings: "CacheSettings") -> None:
    """Adds problems and warnings to the results."""
    slowest = max((each.round_trip_ms or 0.0 for each in found.servers), default=0.0)
    found.in_time = found.in_time and slowest < 1e3 * settings.redis_command_timeout
    if found.reachable and not found.in_time:
        found.problems.append(
            "Redis answers, but not within the time that a request gives it: "
            f"SARK_CACHE_REDIS_CONNECT_TIMEOUT is {settings.redis_connect_timeout:g} s, "
            f"SARK_CACHE_REDIS_COMMAND_TIMEOUT {settings.redis_command_timeout:g} s"
        )
    for server in found.servers:
        _judge_server(found, server, settings)
    found.problems += [
        f"{rollout.problem}: {rollouts.NO_PERCENTAGE}"
        for rollout in found.rollouts.values()
        if rollout.problem is not None
    ]


def _judge_server(found: Examination, server: ExaminedServer, settings: "CacheSettings") -> None:
    if server.cluster_state not in {None, "ok"}:
        found.problems.append(f"{server.address} reports its cluster as: {server.cluster_state}")
    if server.role == "replica":
        found.problems.append(f"{server.address} is a replica, which stores and revokes nothing")
    _judge_permissions(found, server, settings)
    if is_tiered(settings) and settings.use_rust_cache:
        _judge_following(found, server, settings)
    _judge_storage(found, server)


def _judge_permissions(
    found: Examination, server: ExaminedServer, settings: "CacheSettings"
) -> None:
    """Adds the consequences of the commands that a server refuses."""
    replicas = max(server.replicas or 0, settings.redis_replicas or 0)
    needed = Findings(server.refused, replicas).needed(is_cluster=found.topology == "cluster")
    if needed:
        commands = ", ".join(f"{name} ({reason})" for name, reason in needed.items())
        found.problems.append(
            f"{server.address} refuses commands that the cache needs: {commands}. The cache serves "
            "nothing from a server on which it could not be revoked"
            f"{_cure(needed, settings)}"
        )
    if "TIME" in server.refused:
        found.warnings.append(
            f"{server.address} does not answer TIME ({server.refused['TIME']}): the first stamp() "
            f"of a process stores nothing{_cure({'TIME': server.refused['TIME']}, settings)}"
        )
    if FOR_REPLICAS in server.refused and FOR_REPLICAS not in needed:
        reason = server.refused[FOR_REPLICAS]
        found.warnings.append(
            f"{server.address} does not answer {FOR_REPLICAS} ({reason}): nothing is served as "
            f"soon as it has a replica{_cure({FOR_REPLICAS: reason}, settings)}"
        )
    if "INFO" in server.refused:
        found.warnings.append(
            f"{server.address} does not answer INFO ({server.refused['INFO']}): "
            "its version, role, replicas and memory are unknown. A revocation is confirmed only if "
            "its connection stays open until the end"
        )
    if server.counts_replicas is False:
        confirm = "the primary alone"
        if settings.redis_replicas:
            confirm = f"the primary and {counted(settings.redis_replicas, 'replica', 'replicas')}"
        found.warnings.append(
            f"{server.address} does not let its replicas be counted "
            f"(ROLE: {server.refused['ROLE']}): a revocation is confirmed by {confirm}, and may "
            "be lost in a failover to any other server. Set SARK_CACHE_REDIS_REPLICAS to the "
            "number of replicas that have to confirm it"
        )


def _judge_following(found: Examination, server: ExaminedServer, settings: "CacheSettings") -> None:
    """Adds what keeps native caches from sharing revocations, or from doing it in time."""
    names = (*FOR_READERS, *FOR_TIERS, "INFO")
    needed = {name: server.refused[name] for name in names if name in server.refused}
    if needed:
        commands = ", ".join(f"{name} ({reason})" for name, reason in needed.items())
        found.warnings.append(
            f"{server.address} refuses commands with which native caches share revocations: "
            f"{commands}. Users get Redis instead, and a revocation may wait for "
            f"SARK_CACHE_MAX_STALENESS{_cure(needed, settings)}"
        )
    if found.topology in FAILOVER_SETTINGS:
        warning = _of_failover(server, FAILOVER_SETTINGS[found.topology], settings)
        found.warnings += [warning] if warning else []


def _of_failover(server: ExaminedServer, setting: str, settings: "CacheSettings") -> str:
    """Returns the warning about a failover that may be too fast. Empty: there is none."""
    seconds = server.failover_seconds
    enough = settings.max_staleness + SILENCE_SECONDS
    trust = "set SARK_CACHE_TRUST_SERVER=true if you know that no failover is faster"
    if seconds is None and settings.trust_server:
        return ""
    if seconds is None:
        return (
            f"{server.address} does not show its {setting}, so native caches do not follow it and "
            f"users get Redis. Grant CONFIG GET to the user (+config|get), or {trust}"
        )
    if seconds >= enough:
        return ""
    known = f"{server.address} may be replaced {seconds:g} s after it was cut off ({setting}): "
    cure = f". Raise {setting} to SARK_CACHE_MAX_STALENESS plus 3 s ({enough:g} s)"
    if settings.trust_server:
        return (
            f"{known}a process that is cut off together with it may serve a decision for some "
            f"seconds after its revocation{cure}"
        )
    if seconds - SILENCE_SECONDS < MIN_MAX_STALENESS:
        return f"{known}native caches do not follow it and users get Redis{cure}, or {trust}"
    return f"{known}max_staleness is shortened to {seconds - SILENCE_SECONDS:g} s{cure}"


def _cure(refused: dict[str, str], settings: "CacheSettings") -> str:
    """Returns the cure for refused commands, as the end of a sentence; empty if none is known."""
    cures: list[str] = []
    keys = any(reason.endswith(OF_KEYS) for reason in refused.values())
    of_log = InvalidationLog(settings.namespace).key.removesuffix("log")
    rights = [f"~{settings.namespace}sark-cache:*", f"~{of_log}*"] if keys else []
    rights += [
        f"+{name.lower()}"
        for name, reason in refused.items()
        if reason in {"NoPermissionError", FORBIDDEN}
    ]
    if rights:
        cures.append(f". Grant it to the user: ACL SETUSER <user> {' '.join(rights)}")
    if any("OOM" in reason for reason in refused.values()):
        cures.append(". Its memory is full: raise maxmemory, or set maxmemory-policy volatile-ttl")
    return "".join(cures)


def _judge_storage(found: Examination, server: ExaminedServer) -> None:
    """Adds the consequences of a restart and of full memory for stored data."""
    if server.reports_history is False and server.snapshots != "":
        found.warnings.append(
            f"{server.address} does not report its master_replid (INFO), so a restart from a "
            "snapshot is not noticed: decisions that were revoked since the snapshot are back, and "
            "are served until their time to live is over. Grant INFO to the user, or switch "
            'snapshots off: save ""'
        )
    if server.appends is False:
        found.warnings.append(
            f"{server.address} keeps no append-only file (appendonly no): a restart loses all data "
            "that no snapshot has, including revocations and rollouts (feature_flag:*). Switch it "
            "on: appendonly yes"
        )
    if str(server.maxmemory_policy).startswith("allkeys"):
        found.warnings.append(
            f"{server.address} evicts any key when its memory is full "
            f"({server.maxmemory_policy}), including rollouts (feature_flag:*): a process that "
            "starts afterwards uses the percentage of its settings. A volatile-* policy evicts "
            "only decisions. (If the invalidation log is evicted, running evaluations are not "
            "stored, which does no harm.)"
        )
