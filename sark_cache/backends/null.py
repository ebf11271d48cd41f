"""`NullPolicyCache`: a policy cache that stores nothing, used when no backend is available."""

from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import Any, ClassVar

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache._core.coroutines import Deferred, returns_awaitable
from sark_cache.backends._shared.load_many import BatchEvaluator, complete, evaluate_alone, own_rows
from sark_cache.backends._shared.loading import evaluate
from sark_cache.backends._shared.recorder import MetricsRecorder, RecordedMetrics
from sark_cache.backends.base import BasePolicyCache
from sark_cache.decision import Decision
from sark_cache.metrics import CacheMetrics
from sark_cache.types import (
    BatchEntry,
    BatchLoader,
    BatchRequest,
    Context,
    JSONObject,
    Loader,
)


class NullPolicyCache(RecordedMetrics, BasePolicyCache):
    """A cache that stores nothing, so every request is evaluated and nothing can be revoked.

    It checks arguments as the other caches do. So wrong arguments already fail here, not only after
    another backend is selected.
    """

    backend: ClassVar[str] = "none"

    def __init__(self) -> None:
        self.enabled = True
        self._closed = False
        self._recorder = MetricsRecorder(self.backend)

    @property
    def max_size(self) -> int:
        """Always 0: the cache holds no entries."""
        return 0

    @property
    def closed(self) -> bool:
        """True after `close` was called."""
        return self._closed

    async def get(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        sensitivity: str | None = None,
        *,
        policy: str = "",
    ) -> JSONObject | None:
        """Returns None. Counts a miss."""
        self._miss(user_id, action, resource, context, sensitivity, policy)
        return None

    async def get_decision(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        sensitivity: str | None = None,
        *,
        policy: str = "",
    ) -> Decision | None:
        """Returns None. Counts a miss."""
        self._miss(user_id, action, resource, context, sensitivity, policy)
        return None

    async def set(
        self,
        user_id: str,
        action: str,
        resource: str,
        decision: Mapping[str, Any],
        context: Context | None = None,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        *,
        tags: Collection[str] = (),
        stamp: object = None,
        policy: str = "",
    ) -> bool:
        """Returns False: the decision is not stored."""
        del stamp
        arguments.check_request(user_id, action, resource, context, sensitivity)
        arguments.check_decision(decision)
        arguments.read_ttl(ttl_seconds)
        arguments.read_tags(tags)
        arguments.read_policy(policy)
        return False

    def stamp(self) -> None:
        """Returns None. `set` accepts it as a stamp."""

    @returns_awaitable
    def delete(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        *,
        policy: str | None = None,
    ) -> Coroutine[object, None, bool]:
        """Returns False: no decision was cached."""
        arguments.check_request(user_id, action, resource, context, None)
        arguments.check_optional("policy", policy)
        return Deferred(_no)

    async def get_or_load(
        self,
        user_id: str,
        action: str,
        resource: str,
        loader: Loader,
        context: Context | None = None,
        *,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        tags: Collection[str] = (),
        policy: str = "",
    ) -> JSONObject:
        """Runs the loader and returns its decision. Counts a miss and a load."""
        arguments.check_request(user_id, action, resource, context, sensitivity)
        arguments.check_loader(loader)
        arguments.read_ttl(ttl_seconds)
        arguments.read_tags(tags)
        arguments.read_policy(policy)
        self._count("misses")
        self._count("loads")
        return await evaluate(loader, lambda: self._count("load_errors"), self)

    async def get_or_load_many(
        self,
        requests: Iterable[BatchRequest],
        loader: BatchLoader,
        *,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        tags: Collection[str] = (),
        policy: str = "",
        max_batch: int = arguments.DEFAULT_MAX_BATCH,
    ) -> list[JSONObject]:
        """Runs the loader for all requests. Counts each as a miss and a load.

        Raises:
            BatchLoadError: The loader raised, or returned no decision for some of the requests.
        """
        rows = own_rows(arguments.read_requests(requests))
        evaluator = BatchEvaluator(self, loader, max_batch)
        arguments.read_ttl(ttl_seconds)
        arguments.check_optional("sensitivity", sensitivity)
        arguments.read_tags(tags)
        arguments.read_policy(policy)
        self._count("batch_operations")
        self._count("misses", len(rows))
        self._count("loads", len(rows))
        answers = await evaluate_alone(evaluator, rows)
        self._count("load_errors", sum(isinstance(one, Exception) for one in answers))
        return complete(answers)

    async def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> list[JSONObject | None]:
        """Returns None for each request. Counts each request as a miss."""
        rows = arguments.read_requests(requests)
        arguments.read_policy(policy)
        self._count("batch_operations")
        self._count("misses", len(rows))
        return [None] * len(rows)

    async def set_batch(
        self,
        entries: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: object = None,
        policy: str = "",
    ) -> int:
        """Returns 0: no decision is stored."""
        del stamp
        arguments.read_entries(entries)
        arguments.read_tags(tags)
        arguments.read_policy(policy)
        self._count("batch_operations")
        return 0

    @returns_awaitable
    def invalidate(
        self,
        user_id: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        *,
        tags: Collection[str] | None = NOT_GIVEN,
        policy: str | None = None,
    ) -> Coroutine[object, None, int]:
        """Returns 0: no entry was removed."""
        given = {"user_id": user_id, "action": action, "resource": resource, "policy": policy}
        for name, value in given.items():
            arguments.check_optional(name, value)
        names = arguments.read_revoked_tags(tags)
        if not names and all(value is None for value in given.values()):
            self._recorder.revokes_everything()
        return Deferred(_none)

    @returns_awaitable
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Returns 0: no entry was removed."""
        arguments.check_pattern(pattern)
        return Deferred(_none)

    @returns_awaitable
    def clear(self) -> Coroutine[object, None, bool]:
        """Returns True: the cache is empty."""
        return Deferred(_yes)

    async def size(self) -> int:
        """Returns 0: the cache is empty."""
        return 0

    async def cleanup_expired(self) -> int:
        """Returns 0: the cache is empty."""
        return 0

    @property
    def metrics(self) -> CacheMetrics:
        """A snapshot of the counters."""
        return self._recorder.metrics()

    async def health_check(self) -> bool:
        """Returns True until the cache is closed."""
        return not self._closed

    async def close(self) -> None:
        """Closes the cache."""
        self._closed = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _miss(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
        sensitivity: str | None,
        policy: str,
    ) -> None:
        """Checks the arguments of a look-up and counts it as a miss."""
        arguments.check_request(user_id, action, resource, context, sensitivity)
        arguments.read_policy(policy)
        self._count("misses")

    def _count(self, name: str, count: int = 1) -> None:
        if self.enabled and not self._closed:
            self._recorder.count(name, count)


async def _no() -> bool:
    return False


async def _yes() -> bool:
    return True


async def _none() -> int:
    return 0
