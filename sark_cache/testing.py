"""For tests of services: caches that note what they are asked, and evaluations that are replaced.

With pytest, `pytest_plugins = ["sark_cache.testing"]` in the `conftest.py` at the root brings the
fixtures `policy_cache` and `no_policy_cache`. Without pytest all the rest works.

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

from sark_cache._core.arguments import MAX_REVOKED_TAGS
from sark_cache._core.coroutines import returns_awaitable
from sark_cache.backends._shared.loading import replacing
from sark_cache.backends.native import RustPolicyCache
from sark_cache.backends.null import NullPolicyCache
from sark_cache.selection import registry as process
from sark_cache.types import Context, Loaded, Loader

Request: TypeAlias = tuple[str, str, str, Context | None]
"""`(user_id, action, resource, context)`."""

LOOK_UPS: Final = frozenset({"get", "get_decision", "get_or_load"})
NOTED: Final = (
    *("get", "get_decision", "get_or_load", "get_batch", "set", "set_batch", "preload_cache"),
    *("delete", "invalidate", "invalidate_pattern", "clear", "clear_all"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a method of a cache."""

    method: str
    arguments: Mapping[str, Any]
    """Those that were given, by name."""


class RecordingPolicyCache(RustPolicyCache):
    """A native cache that notes what it is asked. It stores, finds and revokes as any other does.

    Made with the arguments of `RustPolicyCache`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of RustPolicyCache
        super().__init__(*args, **kwargs)
        self.calls: Final[list[Call]] = []
        """Every call that looks something up, stores or revokes it, in order."""
        self.evaluated: Final[list[Request]] = []
        """The requests of `get_or_load` whose loader ran."""

    @property
    def requests(self) -> list[Request]:
        """The requests that were looked up one by one, in order."""
        return [_request(call.arguments) for call in self.calls if call.method in LOOK_UPS]

    def calls_of(self, method: str) -> list[Mapping[str, Any]]:
        """Returns the arguments of each call of a method."""
        return [call.arguments for call in self.calls if call.method == method]

    def forget(self) -> None:
        """Forgets what was noted, and nothing that is cached."""
        self.calls.clear()
        self.evaluated.clear()


def _request(arguments: Mapping[str, Any]) -> Request:
    named = (arguments["user_id"], arguments["action"], arguments["resource"])
    return (*named, arguments.get("context"))


def _noting(name: str) -> Callable[..., Any]:
    method = getattr(RustPolicyCache, name)
    parameters = signature(method)

    @wraps(method)
    def noted(self: RecordingPolicyCache, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        given = parameters.bind(self, *args, **kwargs)
        if getattr(_noting_now, "is_set", False):  # methods of the cache call each other
            return method(*given.args, **given.kwargs)
        named = dict(list(given.arguments.items())[1:])
        for argument, value in named.items():
            named[argument] = given.arguments[argument] = _read(argument, value)
        loader: Any = named.pop("loader", None)
        if callable(loader):
            loads = cast("Loader", loader)
            given.arguments["loader"] = _noting_loader(self, loads, _request(named))
        self.calls.append(Call(name, deepcopy(named)))
        _noting_now.is_set = True
        try:
            return method(*given.args, **given.kwargs)
        finally:
            _noting_now.is_set = False

    return returns_awaitable(noted)


_noting_now: Final = threading.local()


def _read(argument: str, value: Any) -> Any:  # noqa: ANN401 - any argument
    """An iterator as a tuple, to be noted and to be handed on; of endless tags those that count."""
    if not _is_iterator(value):
        return value
    most = MAX_REVOKED_TAGS + 1 if argument == "tags" else None
    items: tuple[Any, ...] = tuple(islice(value, most))
    return items


def _is_iterator(value: object) -> bool:
    return isinstance(value, Iterator)


def _noting_loader(cache: RecordingPolicyCache, loader: Loader, request: Request) -> Loader:
    def load() -> Awaitable[Any]:
        cache.evaluated.append(request)
        return loader()

    return load


for _name in NOTED:
    setattr(RecordingPolicyCache, _name, _noting(_name))


# Evaluations


@contextmanager
def allow_all() -> Generator[None]:
    """Replaces every evaluation by one that allows, for as long as the context lasts.

    That holds for all caches of this process, whatever asks them: `authorize`, `get_or_load`, and
    refreshes. Nothing that is evaluated is stored. What the caches of the process hold is set
    aside, unless the test has `policy_cache`. A cache that was made by hand serves what it holds.
    """
    with _deciding({"allow": True}):
        yield


@contextmanager
def deny_all(reason: str | None = None) -> Generator[None]:
    """Replaces every evaluation by one that denies, as `allow_all` does by one that allows.

    Args:
        reason: The reason of each decision; None: there is none.
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


# Caches in the place of those of the process


class _OfProcess:
    """Outlives whoever closes the caches of the process: it is the test's."""

    async def close(self) -> None:
        """Leaves it open."""

    async def end(self) -> None:
        """Leaves it open."""


class _RecordingOfProcess(_OfProcess, RecordingPolicyCache):
    pass


class _NullOfProcess(_OfProcess, NullPolicyCache):
    pass


try:
    import pytest
except ModuleNotFoundError:  # fixtures are for pytest alone
    pass
else:

    @pytest.fixture
    def policy_cache() -> Generator[RecordingPolicyCache]:
        """An empty native cache that notes what it is asked, in the place of all of the process."""
        cache = _RecordingOfProcess()
        with process.standing_in(cache):
            yield cache

    @pytest.fixture
    def no_policy_cache() -> Generator[NullPolicyCache]:
        """A cache that never hits in the place of all of the process: every request evaluates."""
        cache = _NullOfProcess()
        with process.standing_in(cache):
            yield cache
