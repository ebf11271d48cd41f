"""The number of keys of the next step of a scan.

Keys may be long, and the network slow. So the number of keys follows the size and time of the last
steps.
"""

from typing import Final

KEYS_AT_ONCE = 2_000
FIRST_KEYS = 50
STEP_BYTES = 128 * 1024
"""The target size of a step's reply or command, in bytes."""


class Pace:
    """The number of keys of a step, adapted to the size and time of the last steps.

    Args:
        seconds: The target time of a step.
    """

    def __init__(self, seconds: float) -> None:
        self.keys: int = FIRST_KEYS
        self._seconds: Final = seconds

    def took(self, size: int, seconds: float) -> None:
        """Adapts to the size, in bytes, and the time, in seconds, of a step."""
        share = max(size / STEP_BYTES, seconds / self._seconds)
        if share > 1:
            self.keys = max(1, int(self.keys / min(share, 8)))
        elif share < 0.5:  # noqa: PLR2004 - twice as many keys still reach no target
            self.keys = min(KEYS_AT_ONCE, 2 * self.keys)

    def failed(self) -> bool:
        """Adapts to a step without an answer in time. Returns whether a shorter one is possible."""
        could_be_shorter = self.keys > 1
        self.keys = max(1, self.keys // 8)
        return could_be_shorter
