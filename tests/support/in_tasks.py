"""Ways to await a request inside a loader, and the messages of the errors that it gets."""

import asyncio


async def in_its_own_task(request):
    """Awaits a request in the task of its caller."""
    return await request


async def in_a_task(request):
    """Awaits a request in a task of its own."""
    return await asyncio.create_task(request)


async def gathered(request):
    """Awaits a request with `asyncio.gather`."""
    return (await asyncio.gather(request))[0]


async def in_a_group(request):
    """Awaits a request in a task group."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(request)
    return task.result()


async def later(request):
    """Awaits a request in a task that has run for a while."""
    task = asyncio.create_task(request)
    await asyncio.sleep(0.05)
    return await task


def reason(error):
    """Returns the message of an error, or those of an exception group."""
    return "; ".join(map(reason, getattr(error, "exceptions", ()))) or str(error)
