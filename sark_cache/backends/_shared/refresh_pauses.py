"""Pauses between refreshes that bring nothing, so that not every hit asks an evaluator that fails.

The twin of the compiled module's `pauses.rs`, for the backends that are written in Python. It has
no lock, which a fork could find taken: threads that meet here lose a pause at worst.

The first pause of a key is `FIRST_SECONDS`, each next one twice as long, `LONGEST_SECONDS` at most;
of each a random part of up to a half is taken off, so that keys that failed together are not tried
together. A refresh that brings a decision ends the row. At most `MAX_KEYS` keys are remembered.
"""

from random import random
from time import monotonic
from typing import Final, NamedTuple

FIRST_SECONDS: Final = 0.25
LONGEST_SECONDS: Final = 60.0
MAX_KEYS: Final = 4_096
_MAX_DOUBLINGS: Final = 30


class _Pause(NamedTuple):
    row: int
    """How many there were in a row, with this one."""
    ends: float


class Pauses:
    """The pauses of one cache."""

    def __init__(self) -> None:
        self._keys: dict[int, _Pause] = {}
        """By the hash of the key, which may be long. Two keys of one hash share their pauses."""

    def has(self, key: str) -> bool:
        """Returns whether a key has a pause now."""
        pause = self._keys.get(hash(key))
        return pause is not None and monotonic() < pause.ends

    def begin(self, key: str) -> None:
        """Begins the next pause of a key."""
        now, hashed = monotonic(), hash(key)
        last = self._keys.pop(hashed, None)
        # Long over, it is no part of the row.
        row = last.row + 1 if last and now < last.ends + LONGEST_SECONDS else 1
        if len(self._keys) >= MAX_KEYS:
            self._make_room(now)
        doubled = FIRST_SECONDS * 2 ** min(row - 1, _MAX_DOUBLINGS)
        length = min(doubled, LONGEST_SECONDS) * (1 - random() / 2)  # noqa: S311 - no secret
        self._keys[hashed] = _Pause(row, now + length)

    def end(self, key: str) -> None:
        """Ends the row of a key."""
        self._keys.pop(hash(key), None)

    def __len__(self) -> int:
        return len(self._keys)

    def _make_room(self, now: float) -> None:
        """Forgets the pauses that are over or, where none is, the one that ends first."""
        lasting = {key: pause for key, pause in self._keys.copy().items() if now < pause.ends}
        if len(lasting) >= MAX_KEYS:
            del lasting[min(lasting.items(), key=lambda item: item[1].ends)[0]]
        self._keys = lasting
