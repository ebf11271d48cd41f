"""Field names that clients choose are interned only up to a limit."""

from interpreters import run

NEW_NAMES = """
    import asyncio, sys
    from sark_cache import Decision, RustPolicyCache

    def is_remembered(name):
        # A string that is interned already would be returned in place of this new one.
        new = "".join([name[:-1], name[-1]])
        return sys.intern(new) is not new

    def names(prefix, count):
        return [f"{prefix} of document {number}" for number in range(count)]

    async def store(names):
        cache = RustPolicyCache(max_size=10)
        for number, name in enumerate(names):
            user = str(number % 10)
            assert await cache.set(user, "read", "doc", {"allow": True, name: number}) is True
            assert await cache.get(user, "read", "doc") == {"allow": True, name: number}
            assert (await cache.get_decision(user, "read", "doc"))[name] == number
"""


def test_names_beyond_the_limit_are_not_interned():
    run(f"""{NEW_NAMES}
    asyncio.run(store(names("first", 4_200)))
    later = names("later", 2_000)
    asyncio.run(store(later))
    assert sum(map(is_remembered, later)) == 0
    """)


def test_names_that_threads_store_at_once_are_interned_up_to_the_limit():
    run(f"""{NEW_NAMES}
    import threading
    threads = [
        threading.Thread(target=lambda own: asyncio.run(store(own)), args=(names(letter, 1_500),))
        for letter in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    remembered = sum(is_remembered(name) for letter in "abcd" for name in names(letter, 1_500))
    # In 3.11, an interned string without other references is freed.
    assert remembered <= 4_096, remembered
    """)


def test_the_fields_of_a_request_are_not_interned():
    run(f"""{NEW_NAMES}
    import logging
    logging.disable()  # a sensitivity that nobody knows is warned of

    async def ask(names):
        cache = RustPolicyCache(max_size=10)
        for name in names:
            await cache.set(name, name, name, {{"allow": True}}, {{name: name}}, tags=[name])
            await cache.get(name, name, name, {{name: name}}, sensitivity=name)
            await cache.invalidate(name, name, name, tags=[name])
            await cache.invalidate_pattern(f"{{name}}*")

    asked = names("asked", 500)
    asyncio.run(ask(asked))
    assert sum(map(is_remembered, asked)) == 0
    """)
