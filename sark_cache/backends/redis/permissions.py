"""The commands that a cache needs, and the check that a server permits them to this user.

If a server permitted GET but not SCAN, no stored decision could be revoked. So the servers are
examined before the first request: one round trip tries every command in a form that leaves nothing
behind. Some servers do not know ROLE, and some users may not run it. Revocations are possible
without ROLE, and a warning names the guarantee that is missing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

IN_SCRIPTS: Final = (
    *("GET", "PTTL", "SET", "HGETALL", "HSETNX", "HDEL", "UNLINK"),
    *("XADD", "XRANGE", "XREVRANGE", "TIME", "INFO"),
)
"""The commands that the scripts of `sark_cache.backends.redis.scripts` run."""
FOR_READERS: Final = ("HGETALL", "HSETNX", "HDEL")
"""The commands without which a revocation waits for a whole span if a process reads the log."""
FOR_TIERS: Final = ("HMGET", "HEXISTS", "HLEN", "XREAD")
"""The further commands with which a tiered cache follows the log. Only `doctor` tries them."""
FOR_REPLICAS: Final = "WAIT"
"""The command that is needed if there are replicas."""

CHECK: Final = """
local key = KEYS[1]
local function try(...)
  local reply = redis.pcall(...)
  return type(reply) == 'table' and reply.err or ''
end
return {
  try('GET', key), try('PTTL', key), try('SET', key, '', 'XX', 'PX', 1),
  try('HGETALL', key), try('HSETNX', key, 'n', ''), try('HDEL', key, 'n'), try('UNLINK', key),
  try('XADD', key, 'NOMKSTREAM', '*', 'n', ''), try('XRANGE', key, '-', '+', 'COUNT', 1),
  try('XREVRANGE', key, '+', '-', 'COUNT', 1), try('TIME'), try('INFO', 'server')
}
"""
"""unused key -> for each of `IN_SCRIPTS` the error that it raises, or an empty string"""

FORBIDDEN: Final = "NOPERM"

_CONDITIONS: Final = (
    *("OOM", "READONLY", "LOADING", "BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN"),
    *("MOVED", "ASK", "TRYAGAIN", "CROSSSLOT", "WRONGTYPE", "NOSCRIPT"),
)
"""The codes of errors about the state of the server or of a key, not about permissions."""
_CONDITION_ERRORS: Final = frozenset(
    {
        *("OutOfMemoryError", "ReadOnlyError", "BusyLoadingError", "MasterDownError"),
        *("ClusterDownError", "MovedError", "AskError", "TryAgainError", "ClusterCrossSlotError"),
        "NoScriptError",
    }
)
"""The clients' errors for these codes. Their messages lack the code."""
_FORBIDDEN: Final = re.compile(
    r"NOPERM|no permissions|ACL failure|can't (?:run this|access at least)", re.IGNORECASE
)
_UNKNOWN: Final = re.compile(r"unknown|unsupported|not supported|not allowed", re.IGNORECASE)
_KEYS: Final = re.compile(r"access (?:a key|one of the keys|at least one of the keys)")
_QUOTED: Final = re.compile(r"run the '([a-z|]{1,32})' command")


@dataclass(frozen=True, slots=True)
class Findings:
    """The commands that a server refuses, and the number of its replicas."""

    refused: dict[str, str] = field(default_factory=dict[str, str])
    """The reason for each refused command. It names no keys."""

    replicas: int = 0
    """The number of replicas that must confirm a revocation, as far as it is known."""

    def needed(self, *, is_cluster: bool) -> dict[str, str]:
        """Returns the refused commands without which nothing may be served."""
        spared = {"ROLE", "TIME", *FOR_READERS, *FOR_TIERS}
        if not is_cluster:
            spared.add("INFO")
        if not self.replicas:
            spared.add(FOR_REPLICAS)
        return {name: said for name, said in self.refused.items() if name not in spared}

    @property
    def uncounted(self) -> str | None:
        """The refused command that is needed to count replicas. None: they can be counted."""
        role = self.refused.get("ROLE")
        if role is None or (role == FORBIDDEN and "INFO" not in self.refused):
            return None
        return f"ROLE ({role})"


def refusal(error: object) -> str | None:
    """Returns the reason for which a server refuses a command, without keys.

    Args:
        error: An error of the client, or the text of an error. Any other reply is not a refusal.

    Returns:
        The reason. None: this is not a refusal.
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
    # The error of a script begins with the script and line, so the code may be in the middle.
    if not said or any(re.search(rf"(?:^|[-:\s]){code}\b", said) for code in _CONDITIONS):
        return None
    if _FORBIDDEN.search(said):
        return FORBIDDEN
    return "unknown command" if _UNKNOWN.search(said) else None


def is_of_keys(error: object) -> bool:
    """Returns whether a server refuses a command because of its keys, not because of its name."""
    return _KEYS.search(str(error)) is not None


def named(error: object, sent: str) -> str:
    """Returns the name of the refused command: as the server names it, otherwise as it was sent."""
    said = str(error)
    found = _QUOTED.search(said)
    if found is not None:
        return found[1].upper()
    if is_of_keys(error):
        return f"{sent} with the cache's keys"
    return "a command of a script" if sent == "EVAL" and "script" in said else sent


def in_scripts(reply: object) -> dict[str, str]:
    """Returns the refused commands and the reasons from a reply to `CHECK`.

    Raises:
        ConnectionError: The server is a replica, which stores and revokes nothing.
        ValueError: The reply is not the list that `CHECK` returns.
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
    """Returns the commands that a server refuses.

    Args:
        reply: The reply to `CHECK`, or its error.
        others: The replies to the commands that no script runs, or their errors, by name.

    Raises:
        ConnectionError: The server is a replica.
        ValueError: The reply is not the list that `CHECK` returns.
        Exception: The given `reply`, if it is an error that is not a refusal.
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
