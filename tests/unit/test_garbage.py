"""The garbage collector does not see what is cached."""

import gc

from awaiting import ready
from sark_cache import RustPolicyCache


def test_300000_decisions_add_no_object_that_the_collector_visits():
    cache = RustPolicyCache(max_size=300_000)
    decision = {"allow": True, "reason": "owner", "obligations": [{"mask": ["ssn"]}]}
    ready(cache.set("warm", "read", "up", decision))
    gc.collect()
    before = len(gc.get_objects())
    for i in range(300_000):
        cache.set("alice", "read", str(i), decision)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert ready(cache.get("alice", "read", "299999")) == decision
