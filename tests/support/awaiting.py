"""Inspection of awaitables without an event loop."""

from collections.abc import Awaitable
from typing import TypeVar

import pytest

T = TypeVar("T")


def ready(awaitable: Awaitable[T]) -> T:
    """Returns the result of an awaitable that is ready at once; fails the test if it is not."""
    try:
        suspended = awaitable.__await__().__next__()
    except StopIteration as stop:
        return stop.value
    pytest.fail(f"not ready at once: waits for {suspended!r}")
