"""Evaluators for the tests of `authorize`, some of which cannot be imported by name."""

import threading
from functools import partial, wraps

from sark_cache import Loaded


async def is_member(user_id, action, resource, context):
    """Allows members."""
    return {"allow": user_id in {"alice", "root"}, "reason": "members only"}


async def is_admin(user_id, action, resource, context):
    """Allows admins."""
    return {"allow": user_id == "root", "reason": "admins only"}


def in_a_thread(user_id, action, resource, context):
    """Runs in a thread, since it is not async, and returns the thread's name."""
    return {"allow": True, "thread": threading.current_thread() is not threading.main_thread()}


def decides_late(user_id, action, resource, context):
    """Sets the TTL of its decision, and is not async."""
    return Loaded(in_a_thread(user_id, action, resource, context), ttl_seconds=0)


def logged(evaluate):
    """Decorates a function with `functools.wraps`."""

    @wraps(evaluate)
    def wrapper(*asked):
        return evaluate(*asked)

    return wrapper


@logged
async def decorated(user_id, action, resource, context):
    """Is async beneath a decorator that is not."""
    return {"allow": True, "thread": threading.current_thread() is not threading.main_thread()}


class Engine:
    """An engine with a method, whose instances decide differently."""

    def __init__(self, allowed="alice"):
        self.allowed = allowed

    async def evaluate(self, user_id, *_asked):
        """Allows one user."""
        return {"allow": user_id == self.allowed, "reason": f"{self.allowed} alone"}

    @classmethod
    async def everybody(cls, *_asked):
        """Allows everybody."""
        return {"allow": True}

    @staticmethod
    def nobody(*_asked):
        """Allows nobody."""
        return {"allow": False}


class Callable(Engine):
    """An engine whose instances are called."""

    __call__ = Engine.evaluate


class Blocking(Engine):
    """An engine whose method is not async."""

    def evaluate(self, user_id, *_asked):
        """Allows one user."""
        return {"allow": user_id == self.allowed}


def closure():
    """Returns a function that cannot be imported."""

    async def evaluate(user_id, action, resource, context):
        return {"allow": True}

    return evaluate


anonymous = lambda *_asked: {"allow": True}  # noqa: E731
partially = partial(is_member)
engine = Engine()
