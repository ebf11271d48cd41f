"""The invalidation log of one namespace: a Redis stream of what was revoked.

A revocation appends a record. A decision is stored if no record after the beginning of its
evaluation matches it.

Each item of the stream has three fields:

| field | |
|---|---|
| `n` | a nonce: 16 random hexadecimal digits |
| `r` | a JSON object with the fields and tags of the revocation, its `keys` or its `pattern` |
| `p` | the position of the record before, as the head has it. Empty: it is not known |

The id of an item begins with the server's time in milliseconds. A *position* is the id of an item
and its nonce, `{milliseconds}-{number}.{nonce}`. The newest item is the position of an evaluation
that begins now. The items after a position are newer than it.

A position whose item is not in the log is unknown: the log was cut, flushed, evicted, or lost by a
failover. Then nothing is stored. The nonce is needed because a server that lost items, or whose
clock went back, may assign an id a second time.

The *head*, a string beside the stream, holds the position of the last item, the history of the
server that wrote it, and whether decisions may be stored (see `scripts`). The script that appends a
record writes both in one step, and nothing else appends. If both are missing, the next look-up
begins the log with a record that matches nothing. If the head is missing, or has another history,
the next script appends a record with the member `history`, which matches every decision. If the
stream is missing, the head's position remains valid until the next record, because no record is
newer. Every older position is unknown.

The log is cut by its length. A limit by age would remove the last item of a log without news, and
with it the position of every process. `MAX_RECORDS` items of about 150 bytes take 2.5 MB.

These keys beside the log describe its *readers*, the processes that follow it with a native cache:

| key | |
|---|---|
| `.readers` | a hash: the id of each reader, and the id of the last record that it has applied |
| `.suspects` | a hash: the id of each silent reader, and the *mark* that a writer set for it |
| `.span` | the *span* in milliseconds: a lease ends 0.9 spans after its request was sent |

The field `generation` of `.readers` is random. A process that finds none sets one.

The keys have a hash tag. So on a cluster all keys of the log are on one primary.
"""

import json
from collections.abc import Callable
from secrets import token_hex
from typing import Final

from sark_cache._core.limits import KEY_PREFIX
from sark_cache.backends.redis import scripts
from sark_cache.backends.redis.connection import RedisCommand
from sark_cache.backends.redis.log_record import LogRecord


def nonce() -> str:
    """Returns a new nonce."""
    return token_hex(8)


class InvalidationLog:
    """The keys and commands of the invalidation log of one namespace.

    Args:
        namespace: The prefix of every key of the namespace.
        on_append: Called with the nonce of each record before the record is sent.
    """

    def __init__(self, namespace: str, on_append: Callable[[str], None] | None = None) -> None:
        stem = f"{{{namespace}{KEY_PREFIX}}}"
        self.key: Final = f"{stem}.log"
        self.head: Final = f"{stem}.head"
        self.keys: Final = (self.key, self.head)
        self.readers: Final = f"{stem}.readers"
        self.suspects: Final = f"{stem}.suspects"
        self.span: Final = f"{stem}.span"
        self._on_append: Final = on_append

    def query(self, since: str | None) -> RedisCommand:
        """Returns the command that asks for the position, and for the records since a known one."""
        return ("EVAL", scripts.POSITION, 2, *self.keys, nonce(), since or "")

    def append(self, record: LogRecord, *, with_decisions: bool) -> RedisCommand:
        """Returns the command that appends a record.

        Args:
            record: The record.
            with_decisions: True if the server of the log also stores all decisions. False also if
                that is not known.
        """
        record_nonce = nonce()
        if self._on_append is not None:
            self._on_append(record_nonce)
        parts = (record_nonce, json.dumps(record), int(with_decisions))
        return ("EVAL", scripts.APPEND, 2, *self.keys, *parts)

    def note_none(self, since: str, run: str) -> RedisCommand:
        """Returns the command that notes that no decision is stored.

        Args:
            since: The position in the reply to a record after which a scan found no decision.
            run: The id of the run of the server that was scanned.
        """
        return ("EVAL", scripts.NOTE_NONE, 1, self.head, since, run)
