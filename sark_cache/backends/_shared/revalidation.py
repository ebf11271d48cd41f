"""Callbacks that evaluate a decision again: which policies they may decide for."""

from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from sark_cache.types import RevalidateCallback

if TYPE_CHECKING:
    from collections.abc import Callable


class Revalidation:
    """A revalidation callback, and whether it can be asked to decide for a policy."""

    def __init__(self, callback: RevalidateCallback | None) -> None:
        self.callback = callback
        self._takes_policy = callback is not None and takes_policy(callback)

    def under(self, policy: str) -> RevalidateCallback | None:
        """Returns the callback that decides for a policy; None if there is none that can.

        A callback without the keyword `policy` cannot know which policy made a decision. It may not
        replace what another evaluator decided, so it is asked about decisions under no policy
        alone.
        """
        if self.callback is None or not policy:
            return self.callback
        # Its type has no keywords; that it takes this one was looked up.
        callback: Callable[..., Any] = self.callback
        return partial(callback, policy=policy) if self._takes_policy else None


def takes_policy(callback: RevalidateCallback) -> bool:
    """Returns whether a callback takes the keyword `policy`."""
    try:
        signature(callback).bind("", "", "", None, policy="")
    except (TypeError, ValueError):
        return False
    return True
