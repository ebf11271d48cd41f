"""What sark-cache raises besides `TypeError` and `ValueError` for wrong arguments."""


class SarkCacheError(Exception):
    """The base of every error of this package."""


class InvalidationError(SarkCacheError):
    """A revocation could not be confirmed: the backend may still hold what was to be revoked.

    Raised by `invalidate`, `invalidate_pattern` and `delete`. Try again, or stop serving from
    the cache (`enabled = False`) until it succeeds.
    """


class FlagError(SarkCacheError):
    """A rollout percentage could not be confirmed in Redis: other processes may not know it.

    It holds in this process, and is written when Redis is back.
    """


class SettingsError(SarkCacheError, ValueError):
    """Settings in the environment cannot be used; the message has a line for each variable."""
