"""Decisions that were superseded, and may be on the server all the same.

A newer decision could not be stored, as nobody answered or the cache was off; so the older one may
be there still when the server answers again, or the cache is on again. Until it is removed for
certain, this process serves nothing from its key. A write that was not answered may be on its way
still, and arrive after a newer one. So a key that is remembered takes another decision once its
removal was recorded, which overtakes what is late.
The keys that are remembered are bounded. Beyond that everything older counts as superseded, until
all decisions could be revoked.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final

from sark_cache._core.keys import RequestKey
from sark_cache._core.tasks import end
from sark_cache.backends.redis.connection import describe

MOST_KEYS = 65_536
MOST_BYTES = 16 * 2**20
AT_ONCE = 500
FIRST_PAUSE_SECONDS = 0.05
LAST_PAUSE_SECONDS = 0.5
CLOSE_SECONDS = 0.25
"""The longest that closing tries to remove what is left."""


class Superseded:
    """The superseded decisions of one cache.

    Args:
        discard: Revokes and removes what is under some keys; raises unless that is certain.
        flush: Revokes and removes all decisions; raises unless that is certain.
        report: Logs a fault.
        is_off: Says whether the cache is off. Then nothing is urgent, so removals are gathered for
            a moment: each takes a record of the log, which has room for few.
    """

    def __init__(
        self,
        discard: Callable[[Collection[RequestKey]], Awaitable[None]],
        flush: Callable[[], Awaitable[object]],
        report: Callable[[str, str], None],
        is_off: Callable[[], bool] = lambda: False,
    ) -> None:
        self._discard: Final = discard
        self._flush: Final = flush
        self._report: Final = report
        self._is_off: Final = is_off
        self._keys: dict[str, RequestKey] = {}
        self._bytes = 0
        self._overflows = 0
        self._flushed = 0
        self._task: asyncio.Task[None] | None = None
        self._process = os.getpid()

    def __bool__(self) -> bool:
        return bool(self._keys) or self._flushed != self._overflows

    def refuses(self, key: RequestKey) -> bool:
        """Returns whether what is under a key may be older than a decision that was not stored."""
        return self._flushed != self._overflows or key.text in self._keys

    def remembered(self, keys: Collection[RequestKey]) -> list[RequestKey]:
        """Returns those of some keys that are remembered, as `forget` takes them."""
        texts = dict.fromkeys(key.text for key in keys) if self._keys else ()
        found = (self._keys.get(text) for text in texts)
        return [key for key in found if key is not None]

    def add(self, keys: Collection[RequestKey]) -> None:
        """Remembers keys, and begins to remove what is under them in the background."""
        for key in keys:
            if key.text not in self._keys:
                self._bytes += len(key.text)
            # Not the same object as before: a removal under way may have come before this write.
            self._keys[key.text] = RequestKey(*key)
        if len(self._keys) > MOST_KEYS or self._bytes > MOST_BYTES:
            self._overflows += 1
            self.forget(list(self._keys.values()))
            self._report("set", "too many decisions were superseded: all are to be revoked")
        self.start_removal()

    def forget(self, keys: Collection[RequestKey]) -> None:
        """Serves from some keys again, unless they were added once more since they were read."""
        for key in keys:
            if self._keys.get(key.text) is key:
                del self._keys[key.text]
                self._bytes -= len(key.text)

    def start_removal(self) -> None:
        """Begins to remove what is left, unless that is under way in a loop that runs."""
        task = self._task
        if self._process != os.getpid():  # a parent's, which ends there
            self._process, task = os.getpid(), None
        if not self or (task is not None and not task.done() and task.get_loop().is_running()):
            return
        self._task = asyncio.get_running_loop().create_task(
            self._remove_all(), name="sark-cache superseded"
        )

    async def close(self) -> None:
        """Tries once more to remove what is left, and ends what removes it in the background."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            await end([task], "removals")
        if self:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._remove_some()
        if self:
            self._report("close", "decisions that were superseded may still be on the server")

    async def _remove_all(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while self:
            if self._is_off():
                await asyncio.sleep(FIRST_PAUSE_SECONDS)
            if not await self._remove_some():
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE_SECONDS)

    async def _remove_some(self) -> bool:
        """Removes some of what is left; returns whether that is certain."""
        overflows, keys = self._overflows, list(self._keys.values())
        try:
            if self._flushed != overflows:
                await self._flush()
                self._flushed = overflows
            else:
                keys = keys[:AT_ONCE]
                await self._discard(keys)
        except Exception as error:  # noqa: BLE001 - whatever it is, they are not removed
            self._report("superseded", describe(error))
            return False
        self.forget(keys)
        return True
