"""Revalidation callbacks, and the policies for which they may evaluate."""

from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from sark_cache.types import RevalidateCallback

if TYPE_CHECKING:
    from collections.abc import Callable


class Revalidation:
    """A revalidation callback, with the knowledge of whether it takes the keyword `policy`."""

    def __init__(self, callback: RevalidateCallback | None) -> None:
        self.callback = callback
        self._takes_policy = callback is not None and takes_policy(callback)

    def under(self, policy: str) -> RevalidateCallback | None:
        """Returns the callback for decisions of a policy. None: no callback can evaluate them.

        A callback without the keyword `policy` cannot know the policy of a decision, and must not
        replace the decision of another evaluator. So it evaluates only decisions without a policy.
        """
        if self.callback is None or not policy:
            return self.callback
        # The declared type has no keywords; `takes_policy` has found this one.
        callback: Callable[..., Any] = self.callback
        return partial(callback, policy=policy) if self._takes_policy else None


def takes_policy(callback: RevalidateCallback) -> bool:
    """Returns whether a callback takes the keyword `policy`."""
    try:
        signature(callback).bind("", "", "", None, policy="")
    except (TypeError, ValueError):
        return False
    return True
