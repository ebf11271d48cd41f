"""A plain dict, the usual first implementation."""

from itertools import islice
from time import monotonic
from typing import Any

from orjson import OPT_SORT_KEYS as SORTED
from orjson import dumps, loads

from field.subject import Context, Factory
from field.work import Kind, Tuned


class Deadlines(dict[Any, tuple[float, Any]]):
    """A plain dict whose values have deadlines; it evicts the oldest 16th at a time.

    One at a time would be slow: to find its first key, a dict passes all that were removed.
    """

    def __init__(self, capacity: int, ttl: float):
        super().__init__()
        self._capacity, self._ttl = capacity, ttl

    def look_up(self, key: Any):
        entry = self.get(key)
        return None if entry is None or entry[0] <= monotonic() else entry[1]

    def store(self, key: Any, value: Any):
        if len(self) >= self._capacity and key not in self:
            for oldest in list(islice(self, self._capacity // 16 + 1)):
                del self[oldest]
        self[key] = monotonic() + self._ttl, value


def of_dict(kind: Kind) -> Factory:
    """Returns a plain dict, with deadlines."""

    def make(capacity, ttl):
        entries = Deadlines(capacity, ttl)
        return kind(entries.look_up, entries.store)

    return make


class TunedDict(Tuned):
    """A plain dict tuned: the check of the deadline is inlined, which saves a call."""

    def __init__(self, capacity: int, ttl: float):
        entries = Deadlines(capacity, ttl)
        super().__init__(entries.get, entries.store)

    async def get(self, user, action, resource, context: Context = None):
        if context:
            entry = self._look_up((user, action, resource, dumps(context, None, SORTED)))
        else:
            entry = self._look_up((user, action, resource))
        return None if entry is None or entry[0] <= monotonic() else loads(entry[1])
