"""The verdict on a server: may a reader believe that it is the primary with the log's history?

| the server says | meaning | verdict |
|---|---|---|
| it is a replica | it was replaced | `LEAVE` |
| the known history, and its end is not before the known one | it is the known server | `GO_ON` |
| the known history, with an earlier end | it lost the end of its log | `FLUSH` |
| another one that follows the known one after its known end | ask for its uptime | `ASK_UPTIME` |
| the same, and it runs since before the last confirmation | a replica was promoted | `GO_ON` |
| the same, and it was started later | it was restarted from disk | `FLUSH` |
| any other history | it was emptied, or it is another server | `FLUSH` |
| fewer replicas than lately | it may be about to be replaced, without knowing it | `HOLD` |

A promoted replica lacks no confirmed revocation, because those are on every replica. A primary that
was restarted from a snapshot reports the same two histories, but it may have lost revocations. Only
the uptime tells the two apart.

A primary that is cut off from its replicas goes on answering. Its replicas fall silent before one
of them is promoted. So it is not believed until the replicas are back, or `REPLICA_SECONDS` have
passed.

This module does no input or output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from sark_cache.backends.redis import replies
from sark_cache.backends.redis.invalidation import REPLICA_SECONDS

MAX_LAG_SECONDS: Final = 2
"""The maximum silence of a replica that counts as connected, in seconds."""
RESTART_SECONDS: Final = 2.0
"""The time, in seconds, by which a promoted server must have run longer than the time that has
passed since the last confirmation.
"""


class Replication(NamedTuple):
    """The role, the history and the replicas of a server, as it reports them."""

    is_primary: bool
    history: str
    """The id of the history that it writes, `master_replid`."""
    offset: int
    """The end of that history."""
    former: str
    """The id of the history that it followed before it was promoted, `master_replid2`."""
    former_end: int
    """The end of the former history, plus one. -1: there is none."""
    replicas: int
    """The number of replicas that are in sync and were heard lately."""


@dataclass(frozen=True, slots=True)
class Believed:
    """The server that was believed last."""

    history: str
    offset: int
    confirmed_at: float
    """The time before the last confirmation was sent, in seconds."""
    replicas: int
    """The number of replicas when they were last complete."""
    replicas_at: float
    """The time, in seconds, when they were last complete."""

    @classmethod
    def first(cls, seen: Replication, now: float) -> "Believed":
        """Returns the first server that is believed."""
        return cls(seen.history, seen.offset, now, seen.replicas, now)

    def then(self, seen: Replication, now: float) -> "Believed":
        """Returns the same after another confirmation by this server, or by a promoted one."""
        is_complete = (
            seen.history != self.history
            or seen.replicas >= self.replicas
            or now - self.replicas_at >= REPLICA_SECONDS
        )
        return Believed(
            history=seen.history,
            offset=seen.offset,
            confirmed_at=now,
            replicas=seen.replicas if is_complete else self.replicas,
            replicas_at=now if is_complete else self.replicas_at,
        )


class Verdict(Enum):
    """The next step of a reader after a confirmation."""

    GO_ON = auto()
    """Apply the news, and take the lease."""
    HOLD = auto()
    """Apply the news, and take no lease."""
    LEAVE = auto()
    """Close the connection, and find the primary."""
    FLUSH = auto()
    """Revoke everything, and begin at the newest item."""
    ASK_UPTIME = auto()
    """Ask for the uptime of the server, and judge again."""


def judge(
    known: Believed | None, seen: Replication, now: float, uptime: float | None = None
) -> Verdict:
    """Returns the verdict on the server that sent a confirmation.

    Args:
        known: The server that was believed last. None: there was none.
        seen: The server's own report.
        now: The time before the confirmation was sent, in seconds.
        uptime: The time for which the server has run, in seconds. None: it was not asked for.
    """
    if not seen.is_primary:
        return Verdict.LEAVE
    if known is None:
        return Verdict.GO_ON
    if seen.history != known.history:
        return _judge_successor(known, seen, now, uptime)
    if seen.offset < known.offset:
        return Verdict.FLUSH
    if seen.replicas < known.replicas and now - known.replicas_at < REPLICA_SECONDS:
        return Verdict.HOLD
    return Verdict.GO_ON


def _judge_successor(
    known: Believed, seen: Replication, now: float, uptime: float | None
) -> Verdict:
    if seen.former != known.history or seen.former_end < known.offset:
        return Verdict.FLUSH
    if uptime is None:
        return Verdict.ASK_UPTIME
    has_lived = uptime > now - known.confirmed_at + RESTART_SECONDS
    return Verdict.GO_ON if has_lived else Verdict.FLUSH


def read_replication(reply: object) -> Replication:
    """Reads the section about replication of a server's information."""
    found = _fields(reply)
    if found["role"] not in {"master", "slave"}:
        raise ValueError
    replicas = [_replica(text) for name, text in found.items() if _is_replica(name)]
    return Replication(
        is_primary=found["role"] == "master",
        history=found["master_replid"],
        offset=int(found["master_repl_offset"]),
        former=found["master_replid2"],
        former_end=int(found["second_repl_offset"]),
        replicas=sum(map(_is_heard, replicas)),
    )


def read_uptime(reply: object) -> float:
    """Reads the uptime, in seconds, from the section about the server of its information."""
    return float(int(_fields(reply)["uptime_in_seconds"]))


def _fields(reply: object) -> dict[str, str]:
    lines = replies.text(reply).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _is_replica(name: str) -> bool:
    return name.startswith("slave") and name.removeprefix("slave").isdecimal()


def _replica(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def _is_heard(replica: Mapping[str, str]) -> bool:
    lag = int(replica.get("lag", -1))
    return replica.get("state") == "online" and 0 <= lag <= MAX_LAG_SECONDS
