"""The counters and histograms of a cache that is written in Python, without a lock of their own.

A forked child could inherit such a lock in the locked state. Without a GIL, CPython protects each
dict operation by a lock inside the dict.
"""

from collections.abc import Sequence
from threading import get_ident
from typing import Final

from sark_cache._core import arguments
from sark_cache._core.fault_log import FaultLog
from sark_cache.backends._shared.latency import Latency
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram


class Counters:
    """Named counters that only grow, until they are reset. An addition costs about 0.1 µs.

    Each thread adds to its own numbers: two threads that add to the same number could lose an
    addition.
    """

    def __init__(self) -> None:
        self._threads: dict[int, dict[str, int]] = {}

    def add(self, name: str, count: int = 1) -> None:
        """Adds `count` to the counter `name`."""
        thread = get_ident()
        numbers = self._threads.get(thread)
        if numbers is None:
            numbers = self._threads.setdefault(thread, {})
        numbers[name] = numbers.get(name, 0) + count

    def totals(self) -> dict[str, int]:
        """Returns the sums over all threads, without those that are zero."""
        totals: dict[str, int] = {}
        for numbers in tuple(self._threads.values()):
            for name, number in tuple(numbers.items()):
                totals[name] = totals.get(name, 0) + number
        return totals

    def reset(self) -> None:
        """Sets every number to zero."""
        self._threads = {}


class MetricsRecorder:
    """The metrics recorder of one cache: counts, measures durations, and logs faults."""

    def __init__(self, backend: str) -> None:
        self._counters: Final = Counters()
        self._faults: Final = FaultLog(backend)
        self.requests: Final = Latency()
        self.evaluations: Final = Latency()
        self.settlements: Final = Latency()

    def count(self, name: str, count: int = 1) -> None:
        """Adds `count` to the counter `name` of `CacheMetrics`."""
        self._counters.add(name, count)

    def fault(self, operation: str, reason: str) -> None:
        """Counts a request that could not be served or stored, and logs it once per burst."""
        self._counters.add("errors")
        self._faults.report(operation, reason)

    def report(self, operation: str, reason: str) -> None:
        """Logs a fault once per burst, without counting it: it affects no request."""
        self._faults.report(operation, reason)

    def unconfirmed(self, operation: str, reason: str) -> None:
        """Counts a failed revocation that no caller awaits, and logs it once per burst."""
        self._counters.add("unconfirmed_revocations")
        self._faults.unconfirmed(operation, reason)

    def revokes_everything(self) -> None:
        """Logs, once per burst, that a revocation without arguments revokes everything."""
        self._faults.revokes_everything()

    def metrics(self, *, size: int = 0, max_size: int = 0) -> CacheMetrics:
        """Returns a snapshot of all numbers."""
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
        self.settlements.reset()


class RecordedMetrics:
    """The methods of a policy cache that only use its recorder; for caches written in Python."""

    _recorder: MetricsRecorder

    def record_opa_latency(self, latency_ms: float) -> None:
        """Records the duration of one evaluation, in milliseconds.

        Raises:
            TypeError: `latency_ms` is not a number.
            ValueError: `latency_ms` is negative, infinite or NaN.
        """
        self._recorder.evaluations.record(arguments.read_latency(latency_ms) / 1e3)

    def reset_metrics(self) -> None:
        """Sets every counter and histogram to zero."""
        self._recorder.reset()

    def latency_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of requests to the cache; every request is measured."""
        return self._recorder.requests.histogram(bounds)

    def evaluation_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of evaluations, as given to `record_opa_latency`."""
        return self._recorder.evaluations.histogram(bounds)
