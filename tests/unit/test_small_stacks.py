"""The deepest allowed value is stored and served in a thread with the smallest stack.

A thread's stack is 8 MiB on most Linux systems, and 128 KiB with musl. CPython takes 32 KiB.
"""

import pytest

from interpreters import run
from sark_cache import Decision
from sark_cache.decision import PlainDecision

SMALLEST, OF_MUSL = 32 * 1024, 128 * 1024

IN_A_SMALL_THREAD = """
    import copy, pickle, sys, threading
    from collections.abc import Mapping
    from types import MappingProxyType
    from sark_cache import AsyncCache, Decision, Loaded, RustPolicyCache
    from sark_cache.decision import PlainDecision

    def nested(levels, around):
        value = {"v": 1}
        for _ in range(levels - 1):
            value = around(value)
        return value

    class Own(dict):
        pass

    DICTS = nested(64, lambda inner: {"a": 1, "b": "x", "n": inner})
    LISTS = {"x": nested(63, lambda inner: [inner, None])}
    OWN = nested(64, lambda inner: Own(n=inner))
    OTHERS = nested(64, lambda inner: MappingProxyType({"n": inner}))
    DEEPEST = [DICTS, LISTS, OWN, OTHERS]

    def finished(awaitable):
        try:
            awaitable.send(None)
        except StopIteration as stopped:
            return stopped.value

    def in_a_small_thread(work):
        raised = []

        def kept():
            try:
                work()
            except BaseException as error:
                raised.append(error)

        threading.stack_size(int(sys.argv[1]))
        thread = threading.Thread(target=kept)
        thread.start()
        thread.join()
        if raised:
            raise raised[0]
"""


def in_a_small_thread(work, stack=SMALLEST):
    """Runs `work`, lines of Python, in a small thread of another interpreter."""
    body = "".join(f"        {line}\n" for line in work.splitlines())
    return run(
        f"{IN_A_SMALL_THREAD}\n    def work():\n{body}\n    in_a_small_thread(work)\n", str(stack)
    )


def test_the_deepest_contexts_are_read():
    in_a_small_thread("""
cache = RustPolicyCache()
for context in DEEPEST:
    assert finished(cache.get("alice", "read", "doc", context)) is None
    assert finished(cache.set("alice", "read", "doc", {"allow": True}, context)) is True
    assert finished(cache.get("alice", "read", "doc", context)) == {"allow": True}
    assert finished(cache.get_batch([("alice", "read", "doc", context)])) == [{"allow": True}]
    assert finished(cache.delete("alice", "read", "doc", context)) is True
""")


def test_the_deepest_decisions_are_stored_and_served():
    in_a_small_thread("""
cache = RustPolicyCache()
for number, decision in enumerate(DEEPEST):
    assert finished(cache.set("alice", "read", str(number), decision)) is True
    for _ in range(200):  # at first from its bytes; then a template is made of it
        served = finished(cache.get("alice", "read", str(number)))
    assert served == decision
    assert finished(cache.get_decision("alice", "read", str(number))) == decision
""")


def test_the_deepest_decision_is_loaded():
    in_a_small_thread("""
async def load():
    return Loaded(DICTS)

cache = RustPolicyCache()
assert finished(cache.get_or_load("alice", "read", "doc", load)) == DICTS
""")


def test_the_deepest_decisions_are_used():
    in_a_small_thread("""
for fields in DEEPEST:
    decision = Decision(fields)
    assert decision == Decision(fields)
    assert decision == fields
    assert hash(decision) == hash(Decision(fields))
    assert repr(decision) == f"Decision({decision.to_dict()!r})"
    assert pickle.loads(pickle.dumps(decision)) == decision
    inner = decision
    while isinstance(inner, (Mapping, tuple)):
        inner = inner[0] if isinstance(inner, tuple) else list(inner.values())[-1]
    assert inner == 1
""")


def test_the_deepest_decisions_are_used_where_the_compiled_module_is_missing():
    in_a_small_thread(
        """
for fields in DEEPEST:
    decision = PlainDecision(fields)
    assert decision == PlainDecision(fields)
    assert decision.to_dict() == Decision(fields).to_dict()
    assert hash(decision) == hash(Decision(fields))
    assert repr(decision) == f"Decision({decision.to_dict()!r})"
""",
        stack=OF_MUSL,
    )


def test_the_deepest_keys_and_values_of_the_general_cache_are_read():
    in_a_small_thread("""
cache = AsyncCache()
for value in DEEPEST:
    key = ("key", value["x"] if "x" in value else value)
    if value is OWN or value is DICTS or value is OTHERS:
        key = ("key", value["n"])
    finished(cache.set(key, value))
    assert finished(cache.get(key)) == value
    assert finished(cache.delete(key)) is True
""")


@pytest.mark.parametrize("kind", [Decision, PlainDecision], ids=["compiled", "plain"])
def test_one_level_more_is_refused(kind):
    fields = {"v": 1}
    for _ in range(63):
        fields = {"n": fields}
    kind(fields)
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        kind({"n": fields})
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        kind({"n": [fields]})


@pytest.mark.parametrize("kind", [Decision, PlainDecision], ids=["compiled", "plain"])
def test_a_nested_decision_hashes_like_the_set_of_its_fields(kind):
    decision = kind({"allow": True, "on": [[1, {"a": None}], "x"], "by": {"roles": [], "n": 1.0}})
    assert hash(decision) == hash(frozenset(decision.items()))
    assert hash(decision) == hash(kind({"by": {"n": 1, "roles": ()}, **decision}))
