"""The removal of revoked decisions from one primary, after a scan has found their keys."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from sark_cache.backends.redis import replies, scripts
from sark_cache.backends.redis.primary import Primary

YIELD_SECONDS = 0.005
"""The time, in seconds, after which a comparison of keys yields to the event loop."""


async def collect_yielding(found: Iterable[str | None]) -> list[str]:
    """Returns the keys that are found. Yields to the event loop each `YIELD_SECONDS`.

    Args:
        found: The keys, and None for a step that found none.
    """
    keys: list[str] = []
    began = time.monotonic()
    for key in found:
        if key is not None:
            keys.append(key)
        if time.monotonic() - began > YIELD_SECONDS:
            await asyncio.sleep(0)
            began = time.monotonic()
    return keys


async def remove_keys(primary: Primary, keys: list[str], tags: Sequence[str]) -> int:
    """Removes decisions by their keys. Returns the number of decisions removed.

    Args:
        primary: The primary that has the keys.
        keys: The keys.
        tags: If there are any, only decisions with one of these tags are removed.
    """

    async def remove(part: Sequence[str]) -> int:
        if not tags and primary.takes_many_keys:
            removed = await primary.run(("UNLINK", *part))
        elif not tags:
            removed = await primary.run(*(("UNLINK", key) for key in part))
        elif primary.takes_many_keys:
            removed = await primary.run(("EVAL", scripts.REMOVE_TAGGED, len(part), *part, *tags))
        else:
            one = scripts.REMOVE_TAGGED
            removed = await primary.run(*(("EVAL", one, 1, key, *tags) for key in part))
        return sum(replies.read(replies.count, one) for one in removed)

    return await primary.in_parts(keys, remove)
