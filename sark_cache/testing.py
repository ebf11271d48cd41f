"""Tools for the tests of services: caches that record their calls, and fixed decisions.

With pytest, put `pytest_plugins = ["sark_cache.testing"]` into the root `conftest.py` to get the
fixtures `policy_cache` and `no_policy_cache`. Everything else works without pytest.

>>> def test_a_document_is_read(client, policy_cache):
...     with allow_all():
...         assert client.get("/documents/7").status_code == 200
...     assert policy_cache.requests == [("alice", "GET", "/documents/7", None)]
"""

import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from itertools import islice
from typing import Any, Final, TypeAlias, cast

from sark_cache._core.coroutines import returns_awaitable
from sark_cache._core.limits import MAX_REVOKED_TAGS
from sark_cache.backends._shared.loading import replacing
from sark_cache.backends.native import RustPolicyCache
from sark_cache.backends.null import NullPolicyCache
from sark_cache.selection import registry as process
from sark_cache.types import BatchLoader, Context, Loaded, Loader

Request: TypeAlias = tuple[str, str, str, Context | None]
"""`(user_id, action, resource, context)`."""

LOOK_UPS: Final = frozenset({"get", "get_decision", "get_or_load"})
RECORDED: Final = (
    *("get", "get_decision", "get_or_load", "get_or_load_many", "get_batch"),
    *("set", "set_batch", "preload_cache"),
    *("delete", "invalidate", "invalidate_pattern", "clear", "clear_all"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a method of a cache."""

    method: str
    arguments: Mapping[str, Any]
    """The arguments that the caller gave, by name."""


class RecordingPolicyCache(RustPolicyCache):
    """A native cache that records its calls. It stores, serves and revokes like any other.

    It takes the arguments of `RustPolicyCache`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - see RustPolicyCache
        super().__init__(*args, **kwargs)
        self.calls: Final[list[Call]] = []
        """The calls that looked up, stored or revoked decisions, in order."""
        self.evaluated: Final[list[Request]] = []
        """The requests of `get_or_load` and `get_or_load_many` for which a loader ran."""

    @property
    def requests(self) -> list[Request]:
        """The requests of all calls that looked up a single decision, in order."""
        return [_request(call.arguments) for call in self.calls if call.method in LOOK_UPS]

    def calls_of(self, method: str) -> list[Mapping[str, Any]]:
        """Returns the arguments of each call of a method."""
        return [call.arguments for call in self.calls if call.method == method]

    def forget(self) -> None:
        """Clears the recorded calls. The cached decisions stay."""
        self.calls.clear()
        self.evaluated.clear()

    def _allowed(
        self,
        user_id: str,
        action: str,
        resources: list[Any],
        context: Context | None,
        policy: str,
    ) -> list[bool | None]:
        del user_id, action, context, policy
        return [None] * len(resources)  # `filter_allowed` then calls `get_or_load_many`


def _request(arguments: Mapping[str, Any]) -> Request:
    named = (arguments["user_id"], arguments["action"], arguments["resource"])
    return (*named, arguments.get("context"))


def _recording(name: str) -> Callable[..., Any]:
    method = getattr(RustPolicyCache, name)
    parameters = signature(method)

    @wraps(method)
    def recorded(self: RecordingPolicyCache, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        given = parameters.bind(self, *args, **kwargs)
        if getattr(_recording_now, "is_set", False):  # a method of the cache calls another one
            return method(*given.args, **given.kwargs)
        named = dict(list(given.arguments.items())[1:])
        for argument, value in named.items():
            named[argument] = given.arguments[argument] = _read(argument, value)
        loader: Any = named.pop("loader", None)
        if callable(loader):
            if name == "get_or_load_many":
                loads_many = cast("BatchLoader", loader)
                given.arguments["loader"] = _recording_batch_loader(self, loads_many)
            else:
                loads = cast("Loader", loader)
                given.arguments["loader"] = _recording_loader(self, loads, _request(named))
        self.calls.append(Call(name, deepcopy(named)))
        _recording_now.is_set = True
        try:
            return method(*given.args, **given.kwargs)
        finally:
            _recording_now.is_set = False

    return returns_awaitable(recorded)


_recording_now: Final = threading.local()


def _read(argument: str, value: Any) -> Any:  # noqa: ANN401 - any argument
    """Returns an iterator's items as a tuple, so that they can be recorded and passed on.

    Reads only as many tags as a revocation can have. Other arguments are returned unchanged.
    """
    if not _is_iterator(value):
        return value
    most = MAX_REVOKED_TAGS + 1 if argument == "tags" else None
    items: tuple[Any, ...] = tuple(islice(value, most))
    return items


def _is_iterator(value: object) -> bool:
    return isinstance(value, Iterator)


def _recording_loader(cache: RecordingPolicyCache, loader: Loader, request: Request) -> Loader:
    def load() -> Awaitable[Any]:
        cache.evaluated.append(request)
        return loader()

    return load


def _recording_batch_loader(cache: RecordingPolicyCache, loader: BatchLoader) -> BatchLoader:
    def load(requests: list[Request]) -> Awaitable[Any]:
        cache.evaluated.extend(requests)
        return loader(requests)

    return load


for _name in RECORDED:
    setattr(RecordingPolicyCache, _name, _recording(_name))


# Evaluations


@contextmanager
def allow_all() -> Generator[None]:
    """Replaces every evaluation by one that allows, within the `with` block.

    This applies to all caches of this process and to all callers: `authorize`, `get_or_load`, and
    refreshes. The decisions are not stored. The stored decisions of the process's caches are not
    served within the block, unless the test uses `policy_cache`. A cache that the test created
    itself serves its stored decisions.
    """
    with _deciding({"allow": True}):
        yield


@contextmanager
def deny_all(reason: str | None = None) -> Generator[None]:
    """Replaces every evaluation by one that denies, within the `with` block. See `allow_all`.

    Args:
        reason: The reason in each decision. None: the decisions have no reason.
    """
    with _deciding({"allow": False} | ({} if reason is None else {"reason": reason})):
        yield


@contextmanager
def _deciding(decision: Mapping[str, Any]) -> Generator[None]:
    with replacing(Loaded(decision, ttl_seconds=0)):
        if process.has_stand_in():
            yield
        else:
            with process.standing_in(_NullOfProcess()):
                yield


# Caches that replace those of the process


class _OfProcess:
    """A cache that stays open when the caches of the process are closed: the test owns it."""

    async def close(self) -> None:
        """Leaves the cache open."""

    async def end(self) -> None:
        """Leaves the cache open."""


class _RecordingOfProcess(_OfProcess, RecordingPolicyCache):
    pass


class _NullOfProcess(_OfProcess, NullPolicyCache):
    pass


try:
    import pytest
except ModuleNotFoundError:  # only the fixtures need pytest
    pass
else:

    @pytest.fixture
    def policy_cache() -> Generator[RecordingPolicyCache]:
        """Replaces all caches of the process by one empty native cache that records its calls."""
        cache = _RecordingOfProcess()
        with process.standing_in(cache):
            yield cache

    @pytest.fixture
    def no_policy_cache() -> Generator[NullPolicyCache]:
        """Replaces all caches of the process by one that never hits: every request evaluates."""
        cache = _NullOfProcess()
        with process.standing_in(cache):
            yield cache
