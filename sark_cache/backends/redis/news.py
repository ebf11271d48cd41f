"""The part of the invalidation log that one process has heard of.

A look-up learns what was recorded since the position that this process knew. So a request can
tell whether anything was revoked that concerns it, and joins an evaluation under way unless
something was: a revocation of others costs no evaluation.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from sark_cache._core.json import parsed
from sark_cache._core.poller import lock_across_forks
from sark_cache.backends.redis.replies import At

MOST_RECORDS = 128
"""The most records that are remembered; for older ones it counts as if they concerned all."""
FIELDS = ("policy", "user_id", "action", "resource", "context")
_MATCHES_ALL: Final[dict[str, Any]] = {"pattern": "*"}
_hearing: Final = lock_across_forks()
"""Held while something is heard, so that no thread forgets what another one hears meanwhile."""


class _Heard(NamedTuple):
    """What was heard; replaced as a whole, so that threads may read it at any time."""

    position: str | None = None
    positions: frozenset[str] = frozenset()
    """Those of the records, and those that were newest once."""
    records: tuple[tuple[int, str, dict[str, Any]], ...] = ()
    """Numbers, ids and what was recorded, oldest first."""
    floor: int = 0
    """The number of the newest record that was forgotten or not heard."""
    newest: int = 0


class News:
    """What one process has heard of one log."""

    def __init__(self) -> None:
        self._heard = _Heard()
        self.latest: str | None = None
        """The position for stamps: the newest one heard of or recorded here; None: none yet."""

    @property
    def position(self) -> str | None:
        """The position up to which all was heard; None: none yet."""
        return self._heard.position

    def hear(self, at: At, since: str | None) -> None:
        """Takes a reply to the question what was recorded since a position."""
        if at.position is None or at.position in self._heard.positions:
            return
        with _hearing:
            self._take(at, at.position, since)

    def _take(self, at: At, position: str, since: str | None) -> None:
        heard = self._heard
        if position in heard.positions:  # another thread has heard it meanwhile
            return
        self.latest = position
        if at.news is None or since is None or since not in heard.positions:
            number = heard.newest + 1
            self._heard = _Heard(position, frozenset({position}), (), number, number)
            return
        records = list(heard.records)
        newest = heard.newest
        for record in reversed(at.news):
            if record[:24] not in heard.positions:
                newest += 1
                records.append((newest, record[:24], _read(record)))
        forgotten, records = records[:-MOST_RECORDS], records[-MOST_RECORDS:]
        floor = forgotten[-1][0] if forgotten else heard.floor
        known = {since, position, *(one for _, one, _ in records)}
        self._heard = _Heard(position, frozenset(known), tuple(records), floor, newest)

    def era(self, subject: Mapping[str, Any]) -> int:
        """Returns the number of the newest record that may concern a request.

        Tags are not looked at: a decision may get more of them when it was evaluated.
        """
        heard = self._heard
        numbers = (number for number, _, one in reversed(heard.records) if _may_match(one, subject))
        return next(numbers, heard.floor)


def _read(record: str) -> dict[str, Any]:
    try:
        read = parsed(record[39:])
    except (ValueError, RecursionError):
        return _MATCHES_ALL
    return cast("dict[str, Any]", read) if type(read) is dict else _MATCHES_ALL


def _may_match(record: dict[str, Any], subject: Mapping[str, Any]) -> bool:
    if "begun" in record:
        return False
    if "keys" in record:
        keys = record["keys"]
        return not isinstance(keys, list) or subject["key"] in keys
    if "pattern" in record:
        return True
    return all(record.get(field) in {None, subject[field]} for field in FIELDS)
