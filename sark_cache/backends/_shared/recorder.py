"""What a cache that is written in Python counts, without a lock of its own.

A fork could find such a lock taken. Without a GIL a dict has a lock inside, which CPython takes for
each operation.
"""

from collections.abc import Sequence
from threading import get_ident
from typing import Final

from sark_cache._core import arguments
from sark_cache._core.fault_log import FaultLog
from sark_cache.backends._shared.latency import Latency
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram


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


class Record:
    """What happened to one cache: its counters, how long things took, and its faults in the log."""

    def __init__(self, backend: str) -> None:
        self._counters: Final = Counters()
        self._faults: Final = FaultLog(backend)
        self.requests: Final = Latency()
        self.evaluations: Final = Latency()

    def count(self, name: str, count: int = 1) -> None:
        """Adds to a number of `CacheMetrics`."""
        self._counters.add(name, count)

    def fault(self, operation: str, reason: str) -> None:
        """Counts a request that could not be served or stored, and logs it once per burst."""
        self._counters.add("errors")
        self._faults.report(operation, reason)

    def report(self, operation: str, reason: str) -> None:
        """Logs, once per burst, what is no request's fault."""
        self._faults.report(operation, reason)

    def unconfirmed(self, operation: str, reason: str) -> None:
        """Counts a revocation that nobody awaits and that failed, and logs it once per burst."""
        self._counters.add("unconfirmed_revocations")
        self._faults.unconfirmed(operation, reason)

    def revokes_everything(self) -> None:
        """Logs, once per burst, that a revocation without arguments revokes everything."""
        self._faults.revokes_everything()

    def metrics(self, *, size: int = 0, max_size: int = 0) -> CacheMetrics:
        """What was counted: a snapshot."""
        return CacheMetrics(
            **self._counters.totals(),
            size=size,
            max_size=max_size,
            avg_cache_latency_ms=self.requests.mean_ms,
            avg_opa_latency_ms=self.evaluations.mean_ms,
            cache_latency_p50_us=self.requests.percentile(0.50) * 1e6,
            cache_latency_p95_us=self.requests.percentile(0.95) * 1e6,
            cache_latency_p99_us=self.requests.percentile(0.99) * 1e6,
        )

    def reset(self) -> None:
        """Sets every counter and histogram to zero."""
        self._counters.reset()
        self.requests.reset()
        self.evaluations.reset()


class RecordedMetrics:
    """The methods of a policy cache that its recorder answers; for caches written in Python."""

    _record: Record

    def record_opa_latency(self, latency_ms: float) -> None:
        """Records the duration of one evaluation, in milliseconds.

        Raises:
            TypeError, ValueError: Not a number, or negative, infinite or NaN.
        """
        self._record.evaluations.record(arguments.read_latency(latency_ms) / 1e3)

    def reset_metrics(self) -> None:
        """Sets every counter and histogram to zero."""
        self._record.reset()

    def latency_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of requests to the cache; every request is measured."""
        return self._record.requests.histogram(bounds)

    def evaluation_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of evaluations, as given to `record_opa_latency`."""
        return self._record.evaluations.histogram(bounds)
