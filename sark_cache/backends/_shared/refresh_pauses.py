"""Pauses after refreshes without a new decision, so that not every hit calls a failing evaluator.

For the backends that are written in Python; the compiled module's `pauses.rs` has the same rule.
There is no lock, which a forked child could inherit in the locked state: at worst, two threads at
the same time lose a pause.

The first pause of a key is `FIRST_PAUSE_SECONDS`. Each next one is twice as long, up to
`LONGEST_PAUSE_SECONDS`. A random part of up to a half is subtracted from each, so that keys whose
refreshes failed together are not refreshed together again. A refresh with a new decision ends the
series. At most `MAX_PAUSES` keys have a pause.
"""

from random import SystemRandom
from time import monotonic
from typing import Final, NamedTuple

from sark_cache._core.limits import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, MAX_PAUSES

_MAX_DOUBLINGS: Final = 30
_jitter: Final = SystemRandom()
"""Not the shared generator, whose numbers a program may need in a known order."""


class _Pause(NamedTuple):
    series: int
    """The number of pauses in the series, including this one."""
    ends: float


class Pauses:
    """The pauses of one cache."""

    def __init__(self) -> None:
        self._keys: dict[int, _Pause] = {}
        """The pauses by the hash of their key. Two keys with the same hash share their pauses."""

    def has(self, key: str) -> bool:
        """Returns whether the pause of a key lasts."""
        pause = self._keys.get(hash(key))
        return pause is not None and monotonic() < pause.ends

    def begin(self, key: str) -> None:
        """Begins the next pause of a key."""
        now, hashed = monotonic(), hash(key)
        last = self._keys.pop(hashed, None)
        # A pause that ended long ago does not count for the series.
        series = last.series + 1 if last and now < last.ends + LONGEST_PAUSE_SECONDS else 1
        if len(self._keys) >= MAX_PAUSES:
            self._make_room(now)
        doubled = FIRST_PAUSE_SECONDS * 2 ** min(series - 1, _MAX_DOUBLINGS)
        length = min(doubled, LONGEST_PAUSE_SECONDS) * (1 - _jitter.random() / 2)
        self._keys[hashed] = _Pause(series, now + length)

    def end(self, key: str) -> None:
        """Ends the series of a key."""
        self._keys.pop(hash(key), None)

    def __len__(self) -> int:
        return len(self._keys)

    def _make_room(self, now: float) -> None:
        """Removes the pauses that are over. If there are none, removes the one that ends first."""
        lasting = {key: pause for key, pause in self._keys.copy().items() if now < pause.ends}
        if len(lasting) >= MAX_PAUSES:
            del lasting[min(lasting.items(), key=lambda item: item[1].ends)[0]]
        self._keys = lasting
