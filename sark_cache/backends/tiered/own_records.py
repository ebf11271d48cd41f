"""The records that one cache made itself, and has not seen in the log yet."""

from typing import Final

MAX_NONCES: Final = 16_384
"""The maximum number of nonces that are kept. A record whose nonce was removed is applied again."""


class OwnRecords:
    """The nonces of the records that a cache made. Their revocations took effect at the call.

    A nonce is noted before its record is sent, so the reader cannot see the record first. A record
    that is applied a second time does no harm. There is no lock: each method changes the dict once.
    """

    def __init__(self) -> None:
        self._nonces: Final[dict[str, None]] = {}

    def note(self, nonce: str) -> None:
        """Notes the nonce of a record that is sent next."""
        self._nonces[nonce] = None
        while len(self._nonces) > MAX_NONCES:
            oldest = next(iter(self._nonces), None)
            if oldest is None:
                return
            self._nonces.pop(oldest, None)

    def take(self, nonce: str) -> bool:
        """Returns whether this cache made a record that was not seen before. Marks it as seen."""
        return self._nonces.pop(nonce, self) is None
