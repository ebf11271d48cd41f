"""The end of a cache by its `async with` block."""

import pytest


async def assert_closed_by_its_block(cache):
    """Checks that a cache is healthy in its block, and closed and not enterable after it."""
    async with cache as entered:
        assert entered is cache
        assert await cache.health_check() is True
    assert cache.closed
    assert await cache.health_check() is False
    with pytest.raises(RuntimeError, match="closed"):
        async with cache:
            pass
