"""Who is told of evaluations: where tracing looks into the cache.

An evaluation is one run of a loader, or of the callback that refreshes ahead. While nobody observes
any, each costs one look at an empty dict, and a hit costs nothing at all.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeAlias


class Evaluation(Protocol):
    """One evaluation, as those are told who observe it."""

    @property
    def ahead(self) -> bool:
        """Whether it refreshes what is stored, in the background."""
        ...

    def waiting(self) -> int:
        """How many other requests wait for what it brings, now."""
        ...


Observer: TypeAlias = Callable[[Evaluation], AbstractContextManager[object]]
"""Makes what an evaluation is run in, in the task of the one who evaluates: it is entered before
the loader is called, and left with the exception if there is one."""

observers: Final[dict[int, tuple[object, tuple[Observer, ...]]]] = {}
"""By the identity of a cache: the cache, which is kept so that no other one gets that identity, and
those who observe its evaluations."""


def observe(cache: object, observer: Observer) -> Callable[[], None]:
    """Has `observer` told of each evaluation for `cache` that begins from now on.

    Returns:
        What ends it; it may be called more than once.
    """
    observers[id(cache)] = (cache, (*observers_of(cache), observer))

    def end() -> None:
        others = tuple(other for other in observers_of(cache) if other is not observer)
        if others:
            observers[id(cache)] = (cache, others)
        else:
            observers.pop(id(cache), None)

    return end


def observers_of(cache: object) -> tuple[Observer, ...]:
    """Those who observe the evaluations for `cache`."""
    return observers.get(id(cache), (cache, ()))[1]
