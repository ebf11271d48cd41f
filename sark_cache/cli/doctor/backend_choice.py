"""Which backend answers for a user, asked of the very code that a service asks."""

import asyncio
from time import monotonic, sleep
from typing import TYPE_CHECKING

from sark_cache.selection.registry import close_policy_caches
from sark_cache.selection.selector import Choice, Selection

if TYPE_CHECKING:
    from sark_cache.cli.doctor.server_check import Examination
    from sark_cache.settings import CacheSettings

SETTLED_SECONDS = 2.0
"""How long to wait for the selection to know what has been found out about Redis."""


def choose(settings: "CacheSettings", user_id: str, redis: "Examination | None") -> Choice:
    """The backend for a user once a process knows its Redis, which takes it a moment."""
    selection = Selection(settings)
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
    """Whether it has heard of Redis what was found out, if Redis answers at all."""
    if redis is None or not redis.in_time:
        return True
    heard = selection.flags.get_all_rollouts()
    return choice.backend != "none" and all(
        heard.get(feature) == rollout.percentage for feature, rollout in redis.rollouts.items()
    )
