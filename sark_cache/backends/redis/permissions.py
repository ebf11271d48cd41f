"""The commands that a cache sends, and whether a server takes them from this user.

A server that takes GET but not SCAN would serve decisions that nobody can revoke. So the servers
are examined before the first request: one round trip tries every command in a form that changes
nothing. Some servers know no ROLE, and some users may not run it: revocations are possible without
it, and a warning says what is not guaranteed then.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

IN_SCRIPTS: Final = ("GET", "PTTL", "SET", "UNLINK", "LINDEX", "LRANGE", "LPUSH", "LTRIM", "TIME")
"""The commands that the scripts of `sark_cache.backends.redis.scripts` run."""
FOR_REPLICAS: Final = "WAIT"
"""Needed where there are replicas."""

CHECK: Final = """
local key = KEYS[1]
local function try(...)
  local reply = redis.pcall(...)
  return type(reply) == 'table' and reply.err or ''
end
local said = {
  try('GET', key), try('PTTL', key), try('SET', key, '', 'XX', 'PX', 1), try('UNLINK', key),
  try('LINDEX', key, 0), try('LRANGE', key, 0, 0), '', try('LTRIM', key, 0, 0), try('TIME')
}
if said[4] == '' then
  said[7] = try('LPUSH', key, '')
  redis.pcall('UNLINK', key)
end
return said
"""
"""key that nobody has -> for each of `IN_SCRIPTS` the error that it raises, or nothing"""

FORBIDDEN: Final = "NOPERM"

_CONDITIONS: Final = (
    *("OOM", "READONLY", "LOADING", "BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN"),
    *("MOVED", "ASK", "TRYAGAIN", "CROSSSLOT", "WRONGTYPE", "NOSCRIPT"),
)
"""Errors that say how the server or a key is, and not what the user may do."""
_CONDITION_ERRORS: Final = frozenset(
    {
        *("OutOfMemoryError", "ReadOnlyError", "BusyLoadingError", "MasterDownError"),
        *("ClusterDownError", "MovedError", "AskError", "TryAgainError", "ClusterCrossSlotError"),
        "NoScriptError",
    }
)
"""The clients' errors for them, whose messages lack the code."""
_FORBIDDEN: Final = re.compile(
    r"NOPERM|no permissions|ACL failure|can't (?:run this|access at least)", re.IGNORECASE
)
_UNKNOWN: Final = re.compile(r"unknown|unsupported|not supported|not allowed", re.IGNORECASE)
_KEYS: Final = re.compile(r"access (?:a key|one of the keys|at least one of the keys)")
_QUOTED: Final = re.compile(r"run the '([a-z|]{1,32})' command")


@dataclass(frozen=True, slots=True)
class Findings:
    """The commands that a server refuses, and in which words: no keys."""

    refused: dict[str, str] = field(default_factory=dict[str, str])

    replicas: int = 0
    """The number of replicas that have to confirm a revocation, as far as it is known."""

    def needed(self, *, is_cluster: bool) -> dict[str, str]:
        """Returns the refused commands without which nothing may be served."""
        spared = {"ROLE", "TIME"} if is_cluster else {"ROLE", "TIME", "INFO"}
        if not self.replicas:
            spared.add(FOR_REPLICAS)
        return {name: said for name, said in self.refused.items() if name not in spared}

    @property
    def uncounted(self) -> str | None:
        """The refused command without which replicas cannot be counted; None: they can be."""
        role = self.refused.get("ROLE")
        if role is None or (role == FORBIDDEN and "INFO" not in self.refused):
            return None
        return f"ROLE ({role})"


def refusal(error: object) -> str | None:
    """Returns how a server refuses a command, without keys; None: it does not.

    Args:
        error: An error, or the text of one; any other reply is none.
    """
    if not isinstance(error, Exception | str):
        return None
    if isinstance(error, Exception):
        kind = type(error).__name__
        if kind == "NoPermissionError":
            return FORBIDDEN
        if kind in _CONDITION_ERRORS or kind != "ResponseError":
            return None
    said = str(error)
    # A script's error names its place first.
    if not said or any(re.search(rf"(?:^|[-:\s]){code}\b", said) for code in _CONDITIONS):
        return None
    if _FORBIDDEN.search(said):
        return FORBIDDEN
    return "unknown command" if _UNKNOWN.search(said) else None


def is_of_keys(error: object) -> bool:
    """Returns whether a server refuses a command for its keys, and not for its name."""
    return _KEYS.search(str(error)) is not None


def named(error: object, sent: str) -> str:
    """Returns the name of what was refused: a command by the server's words, else as sent."""
    said = str(error)
    found = _QUOTED.search(said)
    if found is not None:
        return found[1].upper()
    if is_of_keys(error):
        return f"{sent} with the cache's keys"
    return "a command of a script" if sent == "EVAL" and "script" in said else sent


def in_scripts(reply: object) -> dict[str, str]:
    """Reads the reply to `CHECK`: the refused commands, and in which words.

    Raises:
        ConnectionError: The server is a replica, which stores and revokes nothing.
        ValueError: It is not such a reply.
    """
    if not isinstance(reply, list) or len(cast("list[object]", reply)) != len(IN_SCRIPTS):
        message = "the reply to a script is not what the script returns"
        raise ValueError(message)
    said = [_text(one) for one in cast("Sequence[object]", reply)]
    if any("READONLY" in one for one in said):
        message = "-READONLY: the server is a replica"
        raise ConnectionError(message)
    return _refused(IN_SCRIPTS, said)


def _refused(names: Sequence[str], replies: Sequence[object]) -> dict[str, str]:
    found = {name: refusal(one) for name, one in zip(names, replies, strict=True)}
    return {name: reason for name, reason in found.items() if reason is not None}


def findings(reply: object, others: dict[str, object]) -> Findings:
    """Returns the commands that are refused.

    Args:
        reply: The reply to `CHECK`, or the error.
        others: The replies to commands that no script runs, or their errors, by name.

    Raises:
        Exception: An error that is not a refusal, or what `in_scripts` raises.
    """
    refused = _refused(list(others), list(others.values()))
    if not isinstance(reply, Exception):
        return Findings(refused | in_scripts(reply))
    reason = refusal(reply)
    if reason is None:
        raise reply
    return Findings({**refused, named(reply, "EVAL"): reason})


def _text(reply: object) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
