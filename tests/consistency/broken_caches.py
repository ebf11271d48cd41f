"""Caches with a defect that the checker must find, as factories of a run."""

import asyncio

from sark_cache.backends.redis import PolicyCache


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
