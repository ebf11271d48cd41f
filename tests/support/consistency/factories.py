"""The caches that a run can check, each as a function that a member of the fleet calls.

Such a function takes the URL of the server, the `max_staleness` of the run in seconds, and
`settles`: if False, a revocation returns when it is recorded, and older decisions may be served for
`max_staleness` from then on. A cache that promises nothing weaker ignores the last two.
"""

from sark_cache import RustPolicyCache, TieredPolicyCache
from sark_cache.backends.redis import PolicyCache

CONNECT_SECONDS = 0.5
COMMAND_SECONDS = 0.5
"""Longer than the defaults: a run keeps all cores busy, so a healthy server answers late."""


def shared(url, max_staleness, *, settles):
    """Returns a cache whose decisions are on the server."""
    return PolicyCache.from_url(
        url, connect_timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS
    )


def tiered(url, max_staleness, *, settles):
    """Returns a native cache that every process can revoke through the server."""
    return TieredPolicyCache(
        url,
        max_staleness=max_staleness,
        settle=settles,
        # The failovers of a run are faster than a service may have them, to save time.
        trust_server=True,
        connect_timeout=CONNECT_SECONDS,
        command_timeout=COMMAND_SECONDS,
    )


def native(url, max_staleness, *, settles):
    """Returns a cache of this process alone, which learns of no other process's revocations."""
    return RustPolicyCache()
