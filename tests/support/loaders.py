"""Loaders for tests of `get_or_load`, and the requests they load."""

import asyncio

import pytest

REQUEST = ("alice", "read", "doc")
ALLOW = {"allow": True, "roles": ["admin"]}
DENY = {"allow": False}


class ControlledLoader:
    """A loader that runs until `bring` or `fail` gives it an outcome."""

    def __init__(self):
        self.runs = 0
        self.begun = asyncio.Event()
        self._brings = asyncio.get_running_loop().create_future()

    async def __call__(self):
        self.runs += 1
        self.begun.set()
        return await asyncio.shield(self._brings)

    def bring(self, decision):
        self._brings.set_result(decision)

    def fail(self, error):
        self._brings.set_exception(error)


def bringing(decision):
    async def load():
        return decision

    return load


async def never():
    pytest.fail("this loader must not run")


async def begun(cache, loader, count=1, **options):
    """Starts tasks that request the same decision, and returns once the loader runs."""
    tasks = [
        asyncio.create_task(cache.get_or_load(*REQUEST, loader, **options)) for _ in range(count)
    ]
    await loader.begun.wait()
    await asyncio.sleep(0)
    return tasks
