"""A million requests while the policy changes: no answer is older than the last revocation."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

from sark_cache import Loaded, RustPolicyCache

THREADS, TASKS, REQUESTS = 8, 2_000, 1_000_000
USERS = [f"u{number}" for number in range(40)]


class Policy:
    """Users that are allowed and denied in turn; each change revokes the decisions before it."""

    def __init__(self, cache):
        self.cache = cache
        self.version = dict.fromkeys(USERS, 0)
        self.revoked = dict.fromkeys(USERS, 0)
        """A request from now on must get this version or a later one."""
        self.changes = 0
        self.lock = threading.Lock()

    def decide(self, user):
        version = self.version[user]
        return {"allow": version % 2 == 0, "version": version}

    def change(self, choose):
        user = choose.choice(USERS)
        with self.lock:
            version = self.version[user] = self.version[user] + 1
            match choose.randrange(20):
                case 0:
                    self.cache.clear()
                case 1:
                    self.cache.invalidate_pattern(f"policy:decision:{user}:*")
                case 2 | 3 | 4:
                    self.cache.invalidate(action="read")
                case dice if dice < 10:
                    self.cache.invalidate(tags=[f"user:{user}"])
                case dice if dice < 15:
                    self.cache.invalidate(user, tags=["late"])
                case _:
                    self.cache.invalidate(user_id=user)
            self.revoked[user] = version
            self.changes += 1

    def check(self, user, must, decision):
        version = decision["version"]
        assert version >= must, (
            f"{user} got version {version}, but everything before {must} was revoked"
        )
        assert decision["allow"] == (version % 2 == 0)


async def ask(cache, policy, choose, requests):
    """Runs one task: requests, mostly through `get_or_load`, that yield now and then."""
    for _ in range(requests):
        user = choose.choice(USERS)
        must = policy.revoked[user]

        async def load(user=user):
            decision = policy.decide(user)  # evaluated first, so that it is old when it arrives
            for _ in range(choose.randrange(4)):
                await asyncio.sleep(0)
            return Loaded(decision, tags=["late"])

        if choose.random() < 0.9:
            decision = await cache.get_or_load(user, "read", "doc", load, tags=[f"user:{user}"])
        else:
            decision = await cache.get(user, "read", "doc")
            if decision is None:
                stamp, loaded = cache.stamp(), await load()
                decision = loaded.decision
                tags = [f"user:{user}", *loaded.tags]
                await cache.set(user, "read", "doc", decision, tags=tags, stamp=stamp)
        policy.check(user, must, decision)
        match choose.random():
            case dice if dice < 0.02:
                await asyncio.sleep(0)
            case dice if dice < 0.03:
                policy.change(choose)


def test_no_request_sees_a_revoked_decision_during_a_storm_of_requests_and_revocations():
    cache = RustPolicyCache()
    policy = Policy(cache)
    done = threading.Event()

    def change():
        choose = random.Random(0)
        while not done.wait(0.0005):
            policy.change(choose)

    async def ask_from_tasks(number):
        per_task = REQUESTS // TASKS
        async with asyncio.TaskGroup() as tasks:
            for task in range(TASKS // THREADS):
                tasks.create_task(
                    ask(cache, policy, random.Random((number, task).__hash__()), per_task)
                )

    with ThreadPoolExecutor(THREADS + 1) as pool:
        changing = pool.submit(change)
        asking = [pool.submit(asyncio.run, ask_from_tasks(number)) for number in range(THREADS)]
        try:
            for asks in asking:
                asks.result()
        finally:
            done.set()
        changing.result()

    metrics = cache.metrics
    assert metrics.total_requests == REQUESTS
    assert min(metrics.hits, metrics.loads, metrics.coalesced, policy.changes) > 1_000
    assert metrics.errors == metrics.load_errors == 0
