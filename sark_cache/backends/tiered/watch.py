"""The wait of a reader's thread: for a wake from another thread, and for its bell."""

import selectors
import socket
from contextlib import suppress
from typing import Final, Self

from sark_cache.backends.tiered.bell import Bell


class Watch:
    """Waits until this thread is woken, or its bell may have rung.

    Args:
        receiver: The end of a pair of sockets, which does not block.
        bell: The bell, which is watched while it is armed.
    """

    def __init__(self, receiver: socket.socket, bell: Bell | None = None) -> None:
        self.may_have_rung: bool = True
        """True if the bell may have a reply. Its client may hold one that it has read already."""
        self._receiver: Final = receiver
        self._bell: Final = bell
        self._listens = False
        self._selector: Final = _selector()
        self._selector.register(receiver, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        """Returns the watch."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the watch."""
        self._selector.close()

    def wait(self, seconds: float) -> None:
        """Waits, at most for some seconds."""
        bell = self._bell
        if bell is not None and bell.is_armed != self._listens:
            if self._listens:
                self._selector.unregister(bell)
            else:
                self._selector.register(bell, selectors.EVENT_READ)
            self._listens = bell.is_armed
        ready = [key.fileobj for key, _ in self._selector.select(seconds)]
        self.may_have_rung = bell in ready
        if self._receiver in ready:
            with suppress(OSError):
                while self._receiver.recv(4096):
                    pass


def _selector() -> selectors.BaseSelector:
    """Returns a selector that a forked child does not share with its parent, where there is one."""
    return getattr(selectors, "PollSelector", selectors.DefaultSelector)()
