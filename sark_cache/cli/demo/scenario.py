"""The steps of the demo: a slow policy engine behind a cache, and a user who is revoked."""

import asyncio
from dataclasses import dataclass
from secrets import token_hex
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from sark_cache.backends.native import RustPolicyCache
from sark_cache.backends.redis import PolicyCache
from sark_cache.cli._exit import ExitCode, FailureError
from sark_cache.cli._redis import of_commands, url_of
from sark_cache.cli._timing import RequestFields, seconds_per_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sark_cache.settings import CacheSettings
    from sark_cache.types import JSONObject

EVALUATION_SECONDS = 0.005
EVALUATIONS = 100
CALLERS = 1_000
ROUNDS, HITS_A_ROUND = 100, 200
REDIS_HITS = 300
REDIS_ENTRY_SECONDS = 30


class DemoEngine:
    """A slow policy engine whose decisions change when a user is suspended.

    Attributes:
        evaluations: The number of evaluations so far.
        suspended: The users that are denied everything.
    """

    def __init__(self) -> None:
        self.evaluations: int = 0
        self.suspended: set[str] = set()

    async def evaluate(self, user_id: str) -> "JSONObject":
        """Returns a decision after `EVALUATION_SECONDS`, from the data at the call."""
        self.evaluations += 1
        allow = user_id not in self.suspended
        await asyncio.sleep(EVALUATION_SECONDS)
        return {"allow": allow, "reason": "owner" if allow else "suspended"}

    def loader(self, user_id: str) -> "Callable[[], Awaitable[JSONObject]]":
        """Returns the loader of a user's decision, for `get_or_load`."""
        return lambda: self.evaluate(user_id)


@dataclass(frozen=True, slots=True)
class Shown:
    """The results of the demo. Times are in microseconds."""

    evaluations: int
    evaluation_us: float
    """The median time of a request that was evaluated."""
    hits: int
    hit_us: float
    callers: int
    """The number of callers that made one request at once."""
    evaluations_for_callers: int
    callers_answered_after_us: float
    allowed_at_first: bool
    allowed_until_revoked: bool
    """The cached answer after the suspension, before the revocation."""
    entries_revoked: int
    revocation_us: float
    allowed_after_revocation: bool
    overtaken_was_stored: bool
    """True if a decision that was revoked during its evaluation was stored, which is wrong."""

    @property
    def is_right(self) -> bool:
        """Returns whether all results are as they should be."""
        return (
            self.evaluations_for_callers == 1
            and self.allowed_at_first
            and self.allowed_until_revoked
            and self.entries_revoked == 1
            and not self.allowed_after_revocation
            and not self.overtaken_was_stored
        )


async def show() -> Shown:
    """Runs the demo with a native cache. It takes about a second."""
    engine = DemoEngine()
    async with RustPolicyCache() as cache:
        evaluation = await _evaluations(cache, engine)
        hit = await seconds_per_call(
            cache.get, _request("user-0"), rounds=ROUNDS, calls=HITS_A_ROUND
        )
        evaluations, all_at_once = await _all_at_once(cache, engine)
        revocation = await _revocation(cache, engine)
        overtaken_was_stored = await _overtaken(cache, engine)
    return Shown(
        evaluations=EVALUATIONS,
        evaluation_us=_microseconds(evaluation),
        hits=ROUNDS * HITS_A_ROUND,
        hit_us=_microseconds(hit),
        callers=CALLERS,
        evaluations_for_callers=evaluations,
        callers_answered_after_us=_microseconds(all_at_once),
        allowed_at_first=revocation.allowed[0],
        allowed_until_revoked=revocation.allowed[1],
        entries_revoked=revocation.entries,
        revocation_us=_microseconds(revocation.seconds),
        allowed_after_revocation=revocation.allowed[2],
        overtaken_was_stored=overtaken_was_stored,
    )


async def measure_redis(settings: "CacheSettings") -> float:
    """Measures a hit in the Redis of the settings. Returns the median in microseconds.

    Stores one decision there and deletes it at the end. It expires after 30 s in any case.

    Raises:
        FailureError: Redis does not store or return the decision.
    """
    connect, command = of_commands(settings)
    request = _request(f"sark-cache demo {token_hex(8)}")
    cache = PolicyCache.from_url(
        url_of(settings),
        connect_timeout=connect,
        command_timeout=command,
        namespace=settings.namespace,
        replicas=settings.redis_replicas,
        settle=settings.settle,
        max_staleness=settings.max_staleness,
    )
    async with cache:
        stored = await cache.set(*request, {"allow": True}, ttl_seconds=REDIS_ENTRY_SECONDS)
        if not stored or await cache.get(*request) is None:
            message = (
                f"Redis at {settings.redis_address} does not keep a decision: run "
                "sark-cache doctor to see why"
            )
            raise FailureError(ExitCode.WRONG, message)
        took = await seconds_per_call(cache.get, request, rounds=REDIS_HITS, calls=1)
        await cache.delete(*request)
    return _microseconds(took)


async def _evaluations(cache: RustPolicyCache, engine: DemoEngine) -> float:
    """Returns the median time of a request that is evaluated, in seconds."""
    times: list[float] = []
    for number in range(EVALUATIONS):
        user = f"user-{number}"
        started = perf_counter()
        await cache.get_or_load(*_request(user), engine.loader(user))
        times.append(perf_counter() - started)
    return median(times)


async def _all_at_once(cache: RustPolicyCache, engine: DemoEngine) -> tuple[int, float]:
    """Makes one request from many callers at once.

    Returns:
        The number of evaluations, and the seconds until all callers had the answer.
    """
    user, before = "somebody new", engine.evaluations
    started = perf_counter()
    callers = (cache.get_or_load(*_request(user), engine.loader(user)) for _ in range(CALLERS))
    await asyncio.gather(*callers)
    return engine.evaluations - before, perf_counter() - started


class _TimedRevocation(NamedTuple):
    """The results of a revocation."""

    allowed: tuple[bool, bool, bool]
    """The answers at first, after the suspension, and after the revocation."""
    entries: int
    seconds: float


async def _revocation(cache: RustPolicyCache, engine: DemoEngine) -> _TimedRevocation:
    """Suspends a user, and revokes the user's decisions."""
    user = "mallory"

    async def is_allowed() -> bool:
        decision = await cache.get_or_load(*_request(user), engine.loader(user))
        return bool(decision["allow"])

    at_first = await is_allowed()
    engine.suspended.add(user)
    until_revoked = await is_allowed()
    started = perf_counter()
    entries = await cache.invalidate(user_id=user)
    took = perf_counter() - started
    return _TimedRevocation((at_first, until_revoked, await is_allowed()), entries, took)


async def _overtaken(cache: RustPolicyCache, engine: DemoEngine) -> bool:
    """Returns whether a decision that is revoked during its evaluation is stored."""
    user = "trudy"
    load = asyncio.ensure_future(cache.get_or_load(*_request(user), engine.loader(user)))
    await asyncio.sleep(EVALUATION_SECONDS / 2)
    await cache.invalidate(user_id=user)
    await load
    return await cache.get(*_request(user)) is not None


def _request(user_id: str) -> RequestFields:
    return (user_id, "read", "doc:1")


def _microseconds(seconds: float) -> float:
    return round(1e6 * seconds, 3)
