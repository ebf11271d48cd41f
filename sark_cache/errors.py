"""The exceptions of sark-cache. Wrong arguments raise `TypeError` or `ValueError` instead."""

from typing import Any, Final


class SarkCacheError(Exception):
    """The base class of all errors of this package."""


class InvalidationError(SarkCacheError):
    """A revocation could not be confirmed: the backend may still hold the decisions to revoke.

    `invalidate`, `invalidate_pattern`, `delete` and `clear` raise it. Try again, or stop serving
    from the cache (`enabled = False`) until the revocation succeeds.
    """


class BatchLoadError(SarkCacheError):
    """Some requests of a batch have no decision, because the loader did not bring one.

    Its cause is the first of the exceptions.

    Args:
        decisions: The decision of each request, in their order. None: there is none.
        errors: The exception for each request without a decision, by its index.
    """

    def __init__(
        self, decisions: list[dict[str, Any] | None], errors: dict[int, Exception]
    ) -> None:
        first = next(iter(errors.values()))
        super().__init__(
            f"{len(errors):,} of {len(decisions):,} requests have no decision; the first reason is "
            f"a {type(first).__name__}"
        )
        self.decisions: Final = decisions
        self.errors: Final = errors
        self.__cause__: BaseException | None = first

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.decisions, self.errors)


class FlagError(SarkCacheError):
    """Redis did not confirm a rollout percentage, or did not answer whether a feature exists.

    A percentage that was set applies in this process, and is written as soon as Redis answers
    again. Other processes may not see it yet.
    """


class SettingsError(SarkCacheError, ValueError):
    """Settings in the environment are wrong; the message has a line for each variable."""
