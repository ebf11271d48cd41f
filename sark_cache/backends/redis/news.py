"""The newest records of the invalidation log, as far as this process knows them.

A look-up returns the records that are newer than the position that this process knew. A request
joins a running evaluation unless a newer record concerns the request. So a revocation of other
requests costs no evaluation.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from sark_cache._core.json import parse_json
from sark_cache._core.poller import lock_across_forks
from sark_cache.backends.redis.replies import At

MOST_RECORDS = 128
"""The maximum number of records that are kept.

A removed record counts as concerning every request.
"""
FIELDS = ("policy", "user_id", "action", "resource", "context")
_MATCHES_ALL: Final[dict[str, Any]] = {"pattern": "*"}
_adding: Final = lock_across_forks()
"""Held while records are added, so that no thread overwrites the records of another one."""


class _Known(NamedTuple):
    """The records that are known. It is replaced as a whole, so threads read it without a lock."""

    position: str | None = None
    positions: frozenset[str] = frozenset()
    """The positions of the records, and the known and the newest position of the last reply."""
    records: tuple[tuple[int, str, dict[str, Any]], ...] = ()
    """The number, position and contents of each record, oldest first."""
    floor: int = 0
    """The number of the newest record that was removed, or that no reply contained."""
    newest: int = 0


class News:
    """The records of one log that this process knows."""

    def __init__(self) -> None:
        self._known = _Known()
        self.latest: str | None = None
        """The position for stamps: the newest known or recorded by this process. None: none yet."""

    @property
    def position(self) -> str | None:
        """The position up to which all records are known. None: none yet."""
        return self._known.position

    def add(self, at: At, since: str | None) -> None:
        """Adds the records of a reply.

        Args:
            at: The reply.
            since: The position that was sent as the known one. None: none was.
        """
        if at.position is None or at.position in self._known.positions:
            return
        with _adding:
            self._add(at, at.position, since)

    def _add(self, at: At, position: str, since: str | None) -> None:
        before = self._known
        if position in before.positions:  # another thread has added it
            return
        self.latest = position
        if at.news is None or since is None or since not in before.positions:
            number = before.newest + 1
            self._known = _Known(position, frozenset({position}), (), number, number)
            return
        records = list(before.records)
        newest = before.newest
        for record in reversed(at.news):
            name, _, contents = record.partition(" ")
            if name not in before.positions:
                newest += 1
                records.append((newest, name, _read(contents)))
        removed, records = records[:-MOST_RECORDS], records[-MOST_RECORDS:]
        floor = removed[-1][0] if removed else before.floor
        positions = {since, position, *(one for _, one, _ in records)}
        self._known = _Known(position, frozenset(positions), tuple(records), floor, newest)

    def era(self, subject: Mapping[str, Any]) -> int:
        """Returns the number of the newest record that may concern a request.

        A record's tags are ignored, because the loader may add tags to the decision.
        """
        known = self._known
        numbers = (number for number, _, one in reversed(known.records) if _may_match(one, subject))
        return next(numbers, known.floor)


def _read(contents: str) -> dict[str, Any]:
    try:
        read = parse_json(contents)
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
