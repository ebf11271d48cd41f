"""The confirmation of a position in the log: its commands and its reply.

One MULTI on one connection reads all of this from one server, at one moment:

- the reader's registration, its mark as silent, the number of readers and the span, from the keys
  that a writer reads;
- the log from the reader's position on, that item included: if it is there with the same nonce,
  nothing before it is missing, and the items after it are the news;
- the server's role, history and replicas.

A lease needs all of them: no reply is an error, the reader is registered at the position that it
asked from and not marked, and the server is believed (`authority`).

This module does no input or output.
"""

import re
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar, cast

from sark_cache._core.errors import UNREADABLE, UnavailableError, describe
from sark_cache.backends.redis import replies
from sark_cache.backends.redis.connection import RedisCommand
from sark_cache.backends.redis.log import InvalidationLog
from sark_cache.backends.tiered.authority import Replication, read_replication

T = TypeVar("T")

PAGE: Final = 100
"""The maximum number of items in a reply. The first one is the reader's own position.

Reading a page takes less than the interpreter's switch interval of 5 ms. With pages of 200, the
event loop of the process waited for 15 ms at a time, instead of 7 ms.
"""
GENERATION: Final = "generation"
"""The field of the readers that names the hash itself. It is another one if the hash was lost."""

_ID: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_NONCE: Final = re.compile(r"[0-9a-f]{16}")


class Position(NamedTuple):
    """A place in the log. The nonce shows whether an id still names the same item."""

    id: str
    nonce: str
    """Empty for an item that is not a record of this package."""

    @property
    def name(self) -> str:
        """The form of the position in the log."""
        return f"{self.id}.{self.nonce}"

    @property
    def seconds(self) -> float:
        """The time of the item by the server's clock, in seconds since 1970."""
        return int(self.id.partition("-")[0]) / 1e3


class LoggedItem(NamedTuple):
    """An item of the log."""

    position: Position
    record: str | None
    """The contents of the record, as JSON. None: they cannot be read."""
    previous: str = ""
    """The name of the position before. Empty: it is not known."""


class Confirmation(NamedTuple):
    """The reply to a confirmation."""

    applied: str | None
    """The id that the reader is registered with. None: it is not registered."""
    generation: str | None
    is_suspected: bool
    readers: int
    """The number of readers."""
    span_ms: int | None
    items: list[LoggedItem]
    replication: Replication

    def registers(self, position: Position) -> bool:
        """Returns whether writers wait for this reader, if it asked from the given position.

        A registration at another position does not count. It may be from an older log, and ahead
        of every item of this one.
        """
        return (
            self.applied == position.id
            and self.generation is not None
            and self.span_ms is not None
            and not self.is_suspected
        )

    def continues(self, position: Position) -> bool:
        """Returns whether the items begin with a position, so that nothing before is missing."""
        return bool(self.items) and self.items[0].position == position


# The commands


def confirmation(log: InvalidationLog, reader: str, position: Position) -> list[RedisCommand]:
    """Returns the commands of a confirmation, given the id of the reader and its position."""
    return [
        ("MULTI",),
        ("HMGET", log.readers, reader, GENERATION),
        ("HEXISTS", log.suspects, reader),
        ("HLEN", log.readers),
        ("GET", log.span),
        ("XRANGE", log.key, position.id, "+", "COUNT", PAGE),
        ("INFO", "replication"),
        ("EXEC",),
    ]


def registration(
    log: InvalidationLog, reader: str, former: Sequence[str], applied: Position, span_ms: int
) -> list[RedisCommand]:
    """Returns the commands that register a reader.

    Args:
        log: The log.
        reader: The id of the reader.
        former: The ids that it had before. Their registrations are removed.
        applied: The last item that all its caches have applied.
        span_ms: The span in milliseconds, if the log has none.
    """
    removed: list[RedisCommand] = []
    if former:
        removed = [("HDEL", log.readers, *former), ("HDEL", log.suspects, *former)]
    return [
        ("MULTI",),
        ("HSETNX", log.readers, GENERATION, token_hex(16)),
        ("HSET", log.readers, reader, applied.id),
        ("HDEL", log.suspects, reader),
        ("SET", log.span, span_ms, "NX"),
        *removed,
        ("EXEC",),
    ]


# The replies


def executed(answers: Sequence[object]) -> list[object]:
    """Returns the replies to the commands of a MULTI, given all replies from MULTI to EXEC.

    Raises:
        UnavailableError: One of them is an error, or there is no reply to EXEC.
    """
    *queued, reply = answers
    for one in answers:
        _raise_error(one)
    if not _is_list(reply) or len(reply) != len(queued) - 1:
        raise UnavailableError(UNREADABLE)
    for one in reply:
        _raise_error(one)
    return reply


def read_confirmation(answers: Sequence[object]) -> Confirmation:
    """Reads the replies to the commands of `confirmation`.

    Raises:
        UnavailableError: One of them is an error, or cannot be read.
    """
    return replies.read(_confirmation, executed(answers))


def read_items(reply: object) -> list[LoggedItem]:
    """Reads a page of the log, as a raw connection returns it: pairs of an id and a list."""
    items = _list(reply)
    if len(items) > PAGE:
        raise ValueError
    return [_item(one) for one in items]


def read_news(reply: object) -> list[LoggedItem]:
    """Reads the reply to an XREAD of the log, as a raw connection returns it.

    It is a dict if the URL of the server has `protocol=3`.
    """
    by_key = (
        cast("dict[object, object]", reply).items() if isinstance(reply, dict) else _list(reply)
    )
    [[_, items]] = by_key
    return read_items(items)


def _confirmation(answers: Sequence[object]) -> Confirmation:
    registered, suspected, readers, span, items, information = answers
    applied, generation = _list(registered)
    return Confirmation(
        applied=_optional(replies.text, applied),
        generation=_optional(replies.text, generation),
        is_suspected=replies.count(suspected) > 0,
        # The generation is a field of the same hash.
        readers=max(0, replies.count(readers) - 1),
        span_ms=_optional(_milliseconds, span),
        items=read_items(items),
        replication=read_replication(information),
    )


def _item(reply: object) -> LoggedItem:
    number, fields = _list(reply)
    name = replies.text(number)
    if _ID.fullmatch(name) is None:
        raise ValueError
    try:
        flat = [replies.text(one) for one in _list(fields)]
        named = dict(zip(flat[::2], flat[1::2], strict=True))
        nonce, record = named["n"], named.get("r")
    except (TypeError, ValueError, KeyError):  # another program wrote it
        return LoggedItem(Position(name, ""), None)
    position = Position(name, nonce if _NONCE.fullmatch(nonce) else "")
    return LoggedItem(position, record, named.get("p", ""))


def _optional(reader: Callable[[object], T], reply: object) -> T | None:
    return None if reply is None else reader(reply)


def _milliseconds(reply: object) -> int:
    number = int(replies.text(reply))
    if number <= 0:
        raise ValueError
    return number


def _list(reply: object) -> list[Any]:
    if not _is_list(reply):
        raise TypeError
    return reply


def _is_list(reply: object) -> TypeGuard[list[Any]]:
    return isinstance(reply, list)


def _raise_error(reply: object) -> None:
    if isinstance(reply, Exception):
        raise UnavailableError(describe(reply)) from reply
