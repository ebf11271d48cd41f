"""The backend that serves a user, chosen by the code that chooses it in a service."""

import asyncio
from time import monotonic, sleep
from typing import TYPE_CHECKING

from sark_cache.selection.registry import close_policy_caches
from sark_cache.selection.selector import Choice, Selection

if TYPE_CHECKING:
    from sark_cache.cli.doctor.server_check import Examination
    from sark_cache.settings import CacheSettings

SETTLED_SECONDS = 2.0
"""The longest time, in seconds, to wait until the selection has read the rollouts of Redis."""


def choose(settings: "CacheSettings", user_id: str, redis: "Examination | None") -> Choice:
    """Returns the backend for a user, once the selection has read the rollouts of Redis.

    Args:
        settings: The settings of the command.
        user_id: The user.
        redis: The result of the examination of Redis; None if no Redis is configured.
    """
    selection = Selection(settings, follows=False)
    try:
        give_up = monotonic() + SETTLED_SECONDS
        choice = selection.choose(user_id)
        while not _is_settled(selection, choice, redis) and monotonic() < give_up:
            sleep(0.02)
            choice = selection.choose(user_id)
        return choice
    finally:
        selection.close()
        selection.flags.close()
        asyncio.run(close_policy_caches())


def _is_settled(selection: Selection, choice: Choice, redis: "Examination | None") -> bool:
    """Returns whether the selection has the rollouts that the examination read.

    Also true if Redis does not answer in time, because then it never will.
    """
    if redis is None or not redis.in_time:
        return True
    seen = selection.flags.get_all_rollouts()
    return choice.backend != "none" and all(
        seen.get(feature) == rollout.percentage for feature, rollout in redis.rollouts.items()
    )
