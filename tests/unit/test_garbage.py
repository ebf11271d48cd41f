"""Cached decisions are not visited by the garbage collector."""

from interpreters import run


def test_300000_decisions_add_no_object_that_the_collector_visits():
    """Runs in another interpreter, where no thread of another test creates objects."""
    grown, found = run(
        """
        import asyncio, gc
        from collections import Counter
        from sark_cache import RustPolicyCache

        def tracked():
            gc.collect()
            return Counter(type(one).__qualname__ for one in gc.get_objects())

        cache = RustPolicyCache(max_size=300_000)
        decision = {"allow": True, "reason": "owner", "obligations": [{"mask": ["ssn"]}]}
        cache.set("warm", "read", "up", decision)
        before = tracked()
        for i in range(300_000):
            cache.set("alice", "read", str(i), decision)
        more = tracked() - before
        print(dict(more.most_common(5)) if more.total() >= 100 else "no more")
        print(asyncio.run(cache.get_decision("alice", "read", "299999")) == decision)
        """
    )
    assert grown == "no more"
    assert found == "True"
