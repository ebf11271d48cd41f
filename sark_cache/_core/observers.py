"""Hooks that observe evaluations; used by tracing.

An evaluation is one run of a loader, or of the callback that refreshes stale entries. While no
observer is registered, an evaluation costs one look at an empty dict. A hit costs nothing.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeAlias, runtime_checkable

__all__ = ["Evaluation", "Observer", "observe"]


class Evaluation(Protocol):
    """One evaluation, as observers see it."""

    @property
    def cache(self) -> object:
        """The cache that the evaluation is for."""
        ...

    @property
    def ahead(self) -> bool:
        """True if the evaluation refreshes a stored entry in the background."""
        ...

    def waiting(self) -> int:
        """Returns the number of other requests that are waiting for the result."""
        ...


@runtime_checkable
class CompositeCache(Protocol):
    """A cache that forwards requests to other caches, one per backend: `SelectedPolicyCache`."""

    def backends(self) -> Iterable[object]:
        """Returns the caches that have been created so far."""
        ...


Observer: TypeAlias = Callable[[Evaluation], AbstractContextManager[object]]
"""Returns a context manager to run an evaluation in, in the task that evaluates.

It is entered before the loader is called. It is left with the exception, if there is one.
"""

observers: Final[dict[int, tuple[object, tuple[Observer, ...]]]] = {}
"""The observed caches and their observers, by `id(cache)`.

The reference to the cache keeps its id from being reused.
"""


def observe(cache: object, observer: Observer) -> Callable[[], None]:
    """Calls `observer` for each evaluation for `cache` that begins from now on.

    For a `CompositeCache`, that includes the evaluations for each of its caches, present or future.

    Returns:
        A function that removes the observer. Calling it again does nothing.
    """
    observers[id(cache)] = (cache, (*_registered_for(cache), observer))

    def end() -> None:
        others = tuple(other for other in _registered_for(cache) if other is not observer)
        if others:
            observers[id(cache)] = (cache, others)
        else:
            observers.pop(id(cache), None)

    return end


def observers_for(cache: object) -> list[Observer]:
    """Returns the observers of `cache`, and of each composite cache that contains it."""
    return [
        observer
        for observed, its_observers in tuple(observers.values())
        if observed is cache or _contains(observed, cache)
        for observer in its_observers
    ]


def _registered_for(cache: object) -> tuple[Observer, ...]:
    return observers.get(id(cache), (cache, ()))[1]


def _contains(observed: object, cache: object) -> bool:
    if not isinstance(observed, CompositeCache):
        return False
    return any(backend is cache for backend in observed.backends())
