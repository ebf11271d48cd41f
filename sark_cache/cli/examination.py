"""What is to be known of the servers: of what kind they are, how far away, and whether they serve.

Nothing is changed on them: what is tried would change a key that nobody has, if it were there.
"""

from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sark_cache.cli import rollouts
from sark_cache.cli.outcomes import FailureError
from sark_cache.cli.output import milliseconds
from sark_cache.cli.rollouts import Rollout
from sark_cache.cli.servers import (
    connected,
    is_cluster,
    of_commands,
    of_requests,
    primaries_of,
    url_of,
    why,
)
from sark_cache.flags import INITIAL
from sark_cache.keys import FORMAT
from sark_cache.redis import urls
from sark_cache.redis.link import told

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

PINGS = 20

KEY = f"{FORMAT}.doctor"
"""A key that nobody has."""

TRIED: dict[str, tuple[str | int, ...]] = {
    "GET": ("GET", KEY),
    "SET": ("SET", KEY, "", "XX", "PX", 1),
    "UNLINK": ("UNLINK", KEY),
    "SCAN": ("SCAN", 0, "MATCH", KEY, "COUNT", 1),
    "ROLE": ("ROLE",),
    "EVAL": ("EVAL", "return redis.call('EXISTS', KEYS[1])", 1, KEY),
}
"""What the caches ask of a server, in a form that changes nothing."""

TOPOLOGIES = {"": "server", "unix": "server", "sentinel": "sentinel", "cluster": "cluster"}


@dataclass(slots=True)
class Server:
    """A server that keeps keys of its own; None: it did not say."""

    address: str
    version: str | None = None
    role: str | None = None
    replicas: int | None = None
    """Connected ones."""
    round_trip_ms: float | None = None
    """The median of some PINGs."""
    runs_scripts: bool | None = None
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """What it does not do that the caches ask for, and why."""
    maxmemory_bytes: int | None = None
    """0: as much as there is."""
    maxmemory_policy: str | None = None
    cluster_state: str | None = None
    """Of its cluster, as it sees it: `ok` or `fail`."""


@dataclass(slots=True)
class Examination:
    """What was found out."""

    address: str
    topology: str
    """`server`, `sentinel` or `cluster`."""
    reachable: bool = False
    in_time: bool = False
    """Whether it answers within the time that a request gives it, too."""
    servers: list[Server] = field(default_factory=list[Server])
    rollouts: dict[str, Rollout] = field(default_factory=dict[str, Rollout])
    problems: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])

    @property
    def round_trip_ms(self) -> float | None:
        """The longest of the servers' round trips."""
        times = [one.round_trip_ms for one in self.servers if one.round_trip_ms is not None]
        return max(times, default=None)


def examine(settings: "CacheSettings") -> Examination:
    """Looks at the servers that the settings name."""
    topology = TOPOLOGIES[urls.parse(url_of(settings)).topology]
    found = Examination(str(settings.redis_address), topology, in_time=_is_in_time(settings))
    try:
        with connected(settings, of_commands(settings)) as client:
            found.reachable = True
            _look(found, client, settings)
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


def _look(found: Examination, client: Any, settings: "CacheSettings") -> None:  # noqa: ANN401
    for primary in primaries_of(client):
        server = Server(primary.address)
        found.servers.append(server)
        try:
            _examine(server, primary.client)
            if is_cluster(client):
                state: dict[str, str] = primary.client.execute_command("CLUSTER INFO")
                server.cluster_state = state.get("cluster_state")
        except Exception as error:  # noqa: BLE001 - whatever the client raises
            found.problems.append(f"{primary.address}: {why(error, settings)}")
    try:
        found.rollouts = rollouts.read(client, INITIAL, settings)
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        found.problems.append(f"rollouts cannot be read: {why(error, settings)}")


def _examine(server: Server, client: Any) -> None:  # noqa: ANN401 - of either library
    """Asks one server.

    Raises:
        Exception: What the client raises when the server does not answer.
    """
    times: list[float] = []
    for _ in range(PINGS):
        started = perf_counter()
        client.ping()
        times.append(perf_counter() - started)
    server.round_trip_ms = milliseconds(median(times))
    server.refused = _refused(client)
    server.runs_scripts = "EVAL" not in server.refused
    try:
        info: dict[str, Any] = client.info()
    except Exception as error:  # noqa: BLE001 - it need not be allowed
        server.refused["INFO"] = told(error)
        return
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version")
    server.version = f"{name} {version}"
    server.role = {"master": "primary", "slave": "replica"}.get(str(info.get("role")))
    server.replicas = info.get("connected_slaves")
    server.maxmemory_bytes = info.get("maxmemory")
    server.maxmemory_policy = info.get("maxmemory_policy")


def _refused(client: Any) -> dict[str, str]:  # noqa: ANN401 - of either library
    refused: dict[str, str] = {}
    for name, command in TRIED.items():
        try:
            client.execute_command(*command)
        except Exception as error:  # noqa: BLE001 - whatever the client raises
            if (
                "moved" not in told(error).lower()
            ):  # the key is another server's, which will be asked
                refused[name] = told(error)
    return refused


def _judge(found: Examination, settings: "CacheSettings") -> None:
    """Says what is wrong, and what may become so."""
    slowest = max((one.round_trip_ms or 0.0 for one in found.servers), default=0.0)
    found.in_time = found.in_time and slowest < 1e3 * settings.redis_command_timeout
    if found.reachable and not found.in_time:
        found.problems.append(
            "Redis answers, but not within the time that a request gives it: "
            f"SARK_CACHE_REDIS_CONNECT_TIMEOUT is {settings.redis_connect_timeout:g} s, "
            f"SARK_CACHE_REDIS_COMMAND_TIMEOUT {settings.redis_command_timeout:g} s"
        )
    for server in found.servers:
        _judge_server(found, server)
    found.problems += [
        f"{rollout.problem}: processes that run keep what they last knew"
        for rollout in found.rollouts.values()
        if rollout.problem is not None
    ]


def _judge_server(found: Examination, server: Server) -> None:
    if server.cluster_state not in {None, "ok"}:
        found.problems.append(f"{server.address} says of its cluster: {server.cluster_state}")
    if server.role == "replica":
        found.problems.append(f"{server.address} is a replica, which stores and revokes nothing")
    needed = {name: reason for name, reason in server.refused.items() if name in TRIED}
    if needed:
        told_of = ", ".join(f"{name} ({reason})" for name, reason in needed.items())
        found.problems.append(f"{server.address} does not do what the cache asks for: {told_of}")
    if "INFO" in server.refused:
        found.warnings.append(
            f"{server.address} does not answer INFO ({server.refused['INFO']}): "
            "its version, role, replicas and memory are unknown"
        )
    if server.maxmemory_bytes and str(server.maxmemory_policy).startswith("allkeys"):
        found.warnings.append(
            f"{server.address} evicts any key when its memory is full "
            f"({server.maxmemory_policy}), rollouts (feature_flag:*) included: a process that "
            "starts after that begins with the percentage of its settings. A volatile-* policy "
            "evicts decisions alone. (Without the invalidation log, evaluations that are under "
            "way are not stored, which does no harm.)"
        )
