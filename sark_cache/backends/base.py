"""`async with cache:` for every policy cache: closed at its end, and not entered again then."""

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, Self


class Closable(Protocol):
    """What can be closed."""

    @property
    def closed(self) -> bool:
        """Whether it was."""
        ...

    def close(self) -> Coroutine[Any, Any, None]:
        """Closes it."""
        ...


class Closing:
    """Makes an asynchronous context manager of a class that has `closed` and `close`."""

    async def __aenter__(self) -> Self:
        if _closable(self).closed:
            message = "this cache is closed; make another one"
            raise RuntimeError(message)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await _closable(self).close()


def _closable(cache: Any) -> Closable:  # noqa: ANN401 - the class that comes with this one
    closable: Closable = cache
    return closable
