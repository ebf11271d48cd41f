"""Caches with a defect that the checker must find, as factories of a run."""

import asyncio
from threading import Timer

from consistency.factories import tiered
from sark_cache.backends.redis import PolicyCache
from sark_cache.backends.tiered import follower
from sark_cache.backends.tiered.follower import LogFollower


class SwallowsHalf(PolicyCache):
    """Confirms each second revocation without carrying it out."""

    calls = 0

    async def invalidate(self, *fields, **options):
        return 0 if self._is_swallowed() else await super().invalidate(*fields, **options)

    async def invalidate_pattern(self, pattern):
        return 0 if self._is_swallowed() else await super().invalidate_pattern(pattern)

    def _is_swallowed(self):
        self.calls += 1
        return self.calls % 2 == 0


class ReturnsEarly(PolicyCache):
    """Confirms each revocation before the server has recorded it."""

    async def invalidate(self, *fields, **options):
        self.running = asyncio.ensure_future(super().invalidate(*fields, **options))
        return 0

    async def invalidate_pattern(self, pattern):
        self.running = asyncio.ensure_future(super().invalidate_pattern(pattern))
        return 0


def swallows_half(url, max_staleness, *, settles):
    """Returns a cache that loses revocations."""
    return SwallowsHalf.from_url(url)


def returns_early(url, max_staleness, *, settles):
    """Returns a cache whose revocations may take effect after they have returned."""
    return ReturnsEarly.from_url(url)


# Readers of the log: each is broken in the whole process that makes such a cache.


def skips_records(url, max_staleness, *, settles):
    """Returns a tiered cache whose reader applies only each second record."""
    apply = LogFollower._apply
    LogFollower._apply = lambda self, items: apply(self, list(items)[1::2])
    return tiered(url, max_staleness, settles=settles)


def acknowledges_first(url, max_staleness, *, settles):
    """Returns a tiered cache whose reader acknowledges records some time before it applies them."""
    apply = LogFollower._apply

    def apply_late(self, items):
        Timer(0.1, apply, [self, list(items)]).start()

    LogFollower._apply = apply_late
    return tiered(url, max_staleness, settles=settles)


def keeps_its_lease(url, max_staleness, *, settles):
    """Returns a tiered cache whose lease is far longer than its span."""
    follower.LEASE_SHARE = 60 / max_staleness
    return tiered(url, max_staleness, settles=settles)
