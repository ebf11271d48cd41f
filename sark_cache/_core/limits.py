"""The limits and defaults of the caches that are written in Python.

The compiled module has the same numbers under the same names, in `_native.CONSTANTS`. A duration
`X` of its code is `X_SECONDS` here. `tests/unit/test_limits.py` fails if the two sides differ.
"""

from typing import Final

KEY_PREFIX: Final = "policy:decision"
"""The beginning of the text that patterns match."""

# The defaults of a cache

DEFAULT_MAX_SIZE: Final = 10_000
DEFAULT_TTL_SECONDS: Final = 300
MIN_MAX_BYTES: Final = 1024
"""The minimum of `max_bytes`: with less, no entry fits."""
MAX_CAPACITY: Final = 2**62
"""The maximum of `max_size` and `max_bytes`."""

# A decision and its parts

MAX_FIELD_BYTES: Final = 8 * 1024
"""The maximum size of a user id, action or resource of a stored decision, in bytes of UTF-8."""
MAX_POLICY_BYTES: Final = 256
MAX_TAGS: Final = 64
"""The maximum number of tags of a decision."""
MAX_TAG_BYTES: Final = 256
MAX_ENTRY_BYTES: Final = 64 * 1024
"""The maximum size of an entry in bytes. It also bounds the number of values and bytes of text."""
MAX_DEPTH: Final = 64
"""The maximum nesting depth of lists and mappings."""
MAX_TTL_SECONDS: Final = 100 * 365 * 24 * 60 * 60
"""The maximum time to live in seconds (100 years). Longer values are reduced to it."""

# A revocation

MAX_PATTERN_BYTES: Final = 1024
MAX_REVOKED_TAGS: Final = 10_000
"""The maximum number of tags in one revocation."""

# Loads that wait for each other

CHECK_INTERVAL_SECONDS: Final = 0.5
"""The interval at which a waiter is checked."""
WAIT_LIMIT_SECONDS: Final = 5.0
"""The time that a waiter waits for another caller's evaluation before it evaluates for itself."""
MAX_SUPERSEDED: Final = 16
"""The maximum number of unfinished evaluations of one key that may supersede each other."""
MAX_VISITED: Final = 1_000
"""The maximum number of tasks that one search for a deadlock visits."""

# Pauses between refreshes without a new decision

FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 60.0
MAX_PAUSES: Final = 4_096
"""The maximum number of keys with a pause in one cache."""
