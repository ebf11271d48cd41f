"""Forks of processes whose event loop and connections are in use."""

from interpreters import needs_fork, run


@needs_fork
def test_a_forked_child_that_uses_the_cache_leaves_the_connections_of_its_parent_alone(own_redis):
    """Linux shares what an epoll object watches between parent and child."""
    code = """
        import asyncio, gc, os, sys
        from sark_cache.backends.redis import PolicyCache

        ALICE = ("alice", "read", "doc")
        cache = PolicyCache(sys.argv[1], connect_timeout=10, command_timeout=10)

        async def look_up():
            found = [await cache.get(*ALICE) for _ in range(3)]
            gc.collect()  # closes unused connections
            return found

        async def parent():
            await cache.set(*ALICE, {"allow": True})
            if (forked := os.fork()) == 0:
                try:
                    print(asyncio.run(look_up()), flush=True)
                finally:
                    os._exit(0)
            os.waitpid(forked, 0)
            async with asyncio.timeout(5):
                print(await look_up())
            await cache.close()

        asyncio.run(parent())
    """
    answers = str([{"allow": True}] * 3)
    assert run(code, own_redis().url) == [answers, answers]
