"""cachebox."""

import cachebox

from field.subject import Factory
from field.work import Kind


def of_cachebox(kind: Kind) -> Factory:
    """Returns cachebox: `TTLCache`, one TTL for all; no type with a TTL has a faster look-up.

    `insert` is what its documentation prefers to an assignment.
    """

    def make(capacity, ttl):
        cache = cachebox.TTLCache(capacity, ttl)
        return kind(cache.get, cache.insert)

    return make
