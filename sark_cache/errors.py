"""The exceptions of sark-cache. Wrong arguments raise `TypeError` or `ValueError` instead."""


class SarkCacheError(Exception):
    """The base class of all errors of this package."""


class InvalidationError(SarkCacheError):
    """A revocation could not be confirmed: the backend may still hold the decisions to revoke.

    `invalidate`, `invalidate_pattern`, `delete` and `clear` raise it. Try again, or stop serving
    from the cache (`enabled = False`) until the revocation succeeds.
    """


class FlagError(SarkCacheError):
    """Redis did not confirm a rollout percentage, or did not answer whether a feature exists.

    A percentage that was set applies in this process, and is written as soon as Redis answers
    again. Other processes may not see it yet.
    """


class SettingsError(SarkCacheError, ValueError):
    """Settings in the environment are wrong; the message has a line for each variable."""
