"""Evaluators that can be imported by name, and some that cannot, for the tests of `authorize`."""

import threading
from functools import partial, wraps

from sark_cache import Loaded


async def is_member(user_id, action, resource, context):
    """Members may."""
    return {"allow": user_id in {"alice", "root"}, "reason": "members only"}


async def is_admin(user_id, action, resource, context):
    """Admins may."""
    return {"allow": user_id == "root", "reason": "admins only"}


def in_a_thread(user_id, action, resource, context):
    """Not async: says where it runs."""
    return {"allow": True, "thread": threading.current_thread() is not threading.main_thread()}


def decides_late(user_id, action, resource, context):
    """Not async, and decides how its decision is stored."""
    return Loaded(in_a_thread(user_id, action, resource, context), ttl_seconds=0)


def logged(evaluate):
    """A decorator as it should be."""

    @wraps(evaluate)
    def wrapper(*asked):
        return evaluate(*asked)

    return wrapper


@logged
async def decorated(user_id, action, resource, context):
    """Async beneath a decorator that is not."""
    return {"allow": True, "thread": threading.current_thread() is not threading.main_thread()}


class Engine:
    """An engine with a method, whose objects differ."""

    def __init__(self, allowed="alice"):
        self.allowed = allowed

    async def evaluate(self, user_id, *_asked):
        """One user may."""
        return {"allow": user_id == self.allowed, "reason": f"{self.allowed} alone"}

    @classmethod
    async def everybody(cls, *_asked):
        """Everybody may."""
        return {"allow": True}

    @staticmethod
    def nobody(*_asked):
        """Nobody may."""
        return {"allow": False}


class Callable(Engine):
    """The same as an object that is called."""

    __call__ = Engine.evaluate


class Blocking(Engine):
    """The same, not async."""

    def evaluate(self, user_id, *_asked):
        """One user may."""
        return {"allow": user_id == self.allowed}


def closure():
    """A function that only its maker knows."""

    async def evaluate(user_id, action, resource, context):
        return {"allow": True}

    return evaluate


anonymous = lambda *_asked: {"allow": True}  # noqa: E731
partially = partial(is_member)
engine = Engine()
