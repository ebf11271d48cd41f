"""Descriptions of a server's errors that can be logged, because they name no keys."""

from typing import Final

_CODES: Final = (
    *("OOM", "WRONGPASS", "NOAUTH", "NOPERM", "READONLY", "LOADING", "MISCONF", "NOREPLICAS"),
    *("CLUSTERDOWN", "MOVED", "TRYAGAIN", "CROSSSLOT", "MASTERDOWN", "BUSY"),
)
"""The error codes of servers that may be logged. The rest of a server's message may name keys."""
_NAMED: Final = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
}
"""The codes of client errors, by class. The clients remove the code from the message."""


UNREADABLE: Final = "a reply that cannot be read"
"""The reason for a reply that has another shape than the command's."""


class UnavailableError(Exception):
    """A command without an answer. The message names the kind of error, and no key."""


def describe(error: BaseException) -> str:
    """Returns an error's class name and the server's error code, if any. Names no keys."""
    if isinstance(error, UnavailableError):
        return str(error)
    kind = type(error).__name__
    if kind == "TimeoutError":  # Python's, or the client's
        return "no answer in time"
    said = f"{_NAMED.get(kind, '')} {error}"
    code = next((code for code in _CODES if code in said), None)
    return f"{kind} ({code})" if code else kind


def with_text(error: BaseException) -> str:
    """Returns an error's class name and its text, which may name keys and passwords."""
    return str(error) if isinstance(error, UnavailableError) else f"{type(error).__name__}: {error}"
