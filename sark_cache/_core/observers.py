"""Who is told of evaluations: where tracing looks into the cache.

An evaluation is one run of a loader, or of the callback that refreshes ahead. While nobody observes
any, each costs one look at an empty dict, and a hit costs nothing at all.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeAlias, runtime_checkable

__all__ = ["Evaluation", "Observer", "observe"]


class Evaluation(Protocol):
    """One evaluation, as those are told who observe it."""

    @property
    def cache(self) -> object:
        """The cache that it is for."""
        ...

    @property
    def ahead(self) -> bool:
        """Whether it refreshes what is stored, in the background."""
        ...

    def waiting(self) -> int:
        """How many other requests wait for what it brings, now."""
        ...


@runtime_checkable
class Several(Protocol):
    """A cache that asks others, each its own backend: `SelectedPolicyCache`."""

    def backends(self) -> Iterable[object]:
        """Those that it asks, by now."""
        ...


Observer: TypeAlias = Callable[[Evaluation], AbstractContextManager[object]]
"""Makes what an evaluation is run in, in the task of the one who evaluates: it is entered before
the loader is called, and left with the exception if there is one."""

observers: Final[dict[int, tuple[object, tuple[Observer, ...]]]] = {}
"""By the identity of a cache: the cache, which is kept so that no other one gets that identity, and
those who observe its evaluations."""


def observe(cache: object, observer: Observer) -> Callable[[], None]:
    """Has `observer` told of each evaluation for `cache` that begins from now on.

    Those for a cache of `Several` are those for any of them, whether it is there already or not.

    Returns:
        What ends it; it may be called more than once.
    """
    observers[id(cache)] = (cache, (*_own(cache), observer))

    def end() -> None:
        others = tuple(other for other in _own(cache) if other is not observer)
        if others:
            observers[id(cache)] = (cache, others)
        else:
            observers.pop(id(cache), None)

    return end


def observers_of(cache: object) -> list[Observer]:
    """Those who observe the evaluations for `cache`, or for one that asks it."""
    return [
        observer
        for observed, its_observers in tuple(observers.values())
        if observed is cache or _asks(observed, cache)
        for observer in its_observers
    ]


def _own(cache: object) -> tuple[Observer, ...]:
    return observers.get(id(cache), (cache, ()))[1]


def _asks(observed: object, cache: object) -> bool:
    return isinstance(observed, Several) and any(one is cache for one in observed.backends())
