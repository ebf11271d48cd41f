"""One write of a decision: its key and text, the conditions to store it, and its outcome."""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from sark_cache._core.keys import PARTS, RequestKey
from sark_cache.backends.redis import scripts


class Write(NamedTuple):
    """A decision to be stored."""

    key: RequestKey
    marker: str
    """The key of the decision's marker."""
    text: str
    ttl_ms: int
    subject: str
    """The key, fields and tags that records of the log are matched against, as JSON."""


class MayReplace(Enum):
    """The values that a write may replace."""

    ANYTHING = "always"
    NOTHING = "absent"
    SEEN_VALUE = "replace"


class Fence(NamedTuple):
    """The conditions under which a decision is stored."""

    position: Callable[[], str]
    """Returns the log's position when the evaluation began, or an age (see `scripts`).

    No newer record may match the decision.
    """
    may_replace: MayReplace = MayReplace.ANYTHING
    held: str | bytes = ""
    marker: str = ""


class WriteOutcome(Enum):
    """The outcome of a write."""

    STORED = scripts.STORED
    INVALIDATED = scripts.INVALIDATED
    SUPERSEDED = scripts.SUPERSEDED


def marker_of(key: RequestKey) -> str:
    """Returns the key of a decision's marker. On a cluster both keys are in the same slot."""
    prefix = key.text.rsplit(":", PARTS)[0]
    return f"{prefix}.marker:{{{key.text}}}"


def lifetime_ms(ttl_seconds: float) -> int:
    """Returns a time to live in whole milliseconds, at least 1."""
    return max(1, int(ttl_seconds * 1e3))
