"""What sark-cache raises besides `TypeError` and `ValueError` for wrong arguments."""


class SarkCacheError(Exception):
    """The base of every error of this package."""


class InvalidationError(SarkCacheError):
    """A revocation could not be confirmed: the backend may still hold what was to be revoked.

    Raised by `invalidate`, `invalidate_pattern` and `delete`. Try again, or stop serving from
    the cache (`enabled = False`) until it succeeds.
    """
