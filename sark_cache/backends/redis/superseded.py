"""The keys of superseded decisions that may still be on the server.

A newer decision could not be stored, because the server did not answer or the cache was off. The
older one may still be stored when the server answers again, or the cache is on again. Until its
removal is confirmed, this process serves nothing from its key.

A write without an answer may still arrive, even after a newer one. So a remembered key takes
another decision only after its removal was recorded in the log. The record makes the late write
fail.

At most 65,536 keys are remembered, 16 MiB together. Beyond that every older decision counts as
superseded, until all decisions have been revoked.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final

from sark_cache._core.errors import describe
from sark_cache._core.keys import RequestKey
from sark_cache._core.tasks import end

MOST_KEYS = 65_536
MOST_BYTES = 16 * 2**20
AT_ONCE = 500
FIRST_PAUSE_SECONDS = 0.05
LAST_PAUSE_SECONDS = 0.5
CLOSE_SECONDS = 0.25
"""The maximum time, in seconds, that `close` spends on removals."""


class Superseded:
    """The superseded decisions of one cache.

    Args:
        remove: Revokes and removes the decisions under some keys. Raises if it is not confirmed.
        flush: Revokes and removes all decisions. Raises if it is not confirmed.
        report: Logs a fault, given the operation and the reason.
        is_off: Returns whether the cache is off. Then no removal is urgent, and removals are
            batched, because each batch takes a record, and after 1,024 no older load is stored.
    """

    def __init__(
        self,
        remove: Callable[[Collection[RequestKey]], Awaitable[None]],
        flush: Callable[[], Awaitable[object]],
        report: Callable[[str, str], None],
        is_off: Callable[[], bool] = lambda: False,
    ) -> None:
        self._remove: Final = remove
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
        """Returns whether a newer decision than the one under a key may be missing there."""
        return self._flushed != self._overflows or key.text in self._keys

    def remembered(self, keys: Collection[RequestKey]) -> list[RequestKey]:
        """Returns the remembered keys among some keys, as the objects that `forget` compares."""
        texts = dict.fromkeys(key.text for key in keys) if self._keys else ()
        found = (self._keys.get(text) for text in texts)
        return [key for key in found if key is not None]

    def add(self, keys: Collection[RequestKey]) -> None:
        """Remembers keys, and starts to remove their decisions in the background."""
        for key in keys:
            if key.text not in self._keys:
                self._bytes += len(key.text)
            # A new object, because a removal that is running may have come before this write.
            self._keys[key.text] = RequestKey(*key)
        if len(self._keys) > MOST_KEYS or self._bytes > MOST_BYTES:
            self._overflows += 1
            self.forget(list(self._keys.values()))
            self._report("set", "too many decisions were superseded: all decisions are revoked")
        self.start_removal()

    def forget(self, keys: Collection[RequestKey]) -> None:
        """Forgets keys, unless they were added again since the caller read them."""
        for key in keys:
            if self._keys.get(key.text) is key:
                del self._keys[key.text]
                self._bytes -= len(key.text)

    def start_removal(self) -> None:
        """Starts the background task that removes decisions, unless one runs in a live loop."""
        task = self._task
        if self._process != os.getpid():  # the task belongs to the parent process
            self._process, task = os.getpid(), None
        if not self or (task is not None and not task.done() and task.get_loop().is_running()):
            return
        self._task = asyncio.get_running_loop().create_task(
            self._remove_all(), name="sark-cache superseded"
        )

    async def close(self) -> None:
        """Ends the background task, and tries once more to remove the remaining decisions."""
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
        """Removes up to 500 decisions, or all. Returns whether the removal is confirmed."""
        overflows, keys = self._overflows, list(self._keys.values())
        try:
            if self._flushed != overflows:
                await self._flush()
                self._flushed = overflows
            else:
                keys = keys[:AT_ONCE]
                await self._remove(keys)
        except Exception as error:  # noqa: BLE001 - after any error the keys stay remembered
            self._report("superseded", describe(error))
            return False
        self.forget(keys)
        return True
