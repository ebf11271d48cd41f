"""Counters that any thread may add to without a lock, which a forked child could inherit taken."""

from threading import get_ident


class Counters:
    """Numbers by name that only grow, until they are reset. Adding costs about 0.1 µs.

    Each thread has numbers of its own, since an addition of two threads to one could lose one.
    """

    def __init__(self) -> None:
        self._threads: dict[int, dict[str, int]] = {}

    def add(self, name: str, count: int = 1) -> None:
        """Adds to one of the numbers."""
        thread = get_ident()
        numbers = self._threads.get(thread)
        if numbers is None:
            numbers = self._threads.setdefault(thread, {})
        numbers[name] = numbers.get(name, 0) + count

    def totals(self) -> dict[str, int]:
        """The numbers that are not zero."""
        totals: dict[str, int] = {}
        for numbers in tuple(self._threads.values()):
            for name, number in tuple(numbers.items()):
                totals[name] = totals.get(name, 0) + number
        return totals

    def reset(self) -> None:
        """Sets every number to zero."""
        self._threads = {}
