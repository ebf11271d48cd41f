"""What the demo does: a slow policy engine, a cache before it, and what becomes of a revocation."""

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
from sark_cache.cli._timing import Request, seconds_per_call

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


class Engine:
    """A policy engine: slow, and of changing opinion.

    Attributes:
        evaluations: How often it was asked.
        suspended: The users whom it allows nothing.
    """

    def __init__(self) -> None:
        self.evaluations: int = 0
        self.suspended: set[str] = set()

    async def evaluate(self, user_id: str) -> "JSONObject":
        """A decision, after `EVALUATION_SECONDS`: by what it knows when it begins."""
        self.evaluations += 1
        allow = user_id not in self.suspended
        await asyncio.sleep(EVALUATION_SECONDS)
        return {"allow": allow, "reason": "owner" if allow else "suspended"}

    def loader(self, user_id: str) -> "Callable[[], Awaitable[JSONObject]]":
        """What `get_or_load` calls for a user."""
        return lambda: self.evaluate(user_id)


@dataclass(frozen=True, slots=True)
class Shown:
    """What was measured, in microseconds, and what was seen."""

    evaluations: int
    evaluation_us: float
    """The median of the requests that had to be evaluated."""
    hits: int
    hit_us: float
    callers: int
    """Who asked for the same at once."""
    evaluations_for_callers: int
    callers_answered_after_us: float
    allowed_at_first: bool
    allowed_until_revoked: bool
    """When the engine would have denied it already."""
    entries_revoked: int
    revocation_us: float
    allowed_after_revocation: bool
    overtaken_was_stored: bool
    """Whether a decision was stored that was revoked while it was being evaluated."""

    @property
    def is_right(self) -> bool:
        """Whether it went as it should."""
        return (
            self.evaluations_for_callers == 1
            and self.allowed_at_first
            and self.allowed_until_revoked
            and self.entries_revoked == 1
            and not self.allowed_after_revocation
            and not self.overtaken_was_stored
        )


async def show() -> Shown:
    """Shows a native cache at work; takes about a second."""
    engine = Engine()
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
    """What a hit takes in the Redis that the settings name, in microseconds: the median.

    Stores one decision there, which is revoked in the end, or expires soon.

    Raises:
        FailureError: The server does not do its part.
    """
    connect, command = of_commands(settings)
    request = _request(f"sark-cache demo {token_hex(8)}")
    cache = PolicyCache.from_url(
        url_of(settings),
        connect_timeout=connect,
        command_timeout=command,
        namespace=settings.namespace,
        replicas=settings.redis_replicas,
    )
    async with cache:
        stored = await cache.set(*request, {"allow": True}, ttl_seconds=REDIS_ENTRY_SECONDS)
        if not stored or await cache.get(*request) is None:
            message = f"Redis at {settings.redis_address} does not keep a decision: see doctor"
            raise FailureError(ExitCode.WRONG, message)
        took = await seconds_per_call(cache.get, request, rounds=REDIS_HITS, calls=1)
        await cache.delete(*request)
    return _microseconds(took)


async def _evaluations(cache: RustPolicyCache, engine: Engine) -> float:
    """What a request takes that has to be evaluated, in seconds: the median."""
    times: list[float] = []
    for number in range(EVALUATIONS):
        user = f"user-{number}"
        started = perf_counter()
        await cache.get_or_load(*_request(user), engine.loader(user))
        times.append(perf_counter() - started)
    return median(times)


async def _all_at_once(cache: RustPolicyCache, engine: Engine) -> tuple[int, float]:
    """How often many callers had one request evaluated; when all had the answer, in seconds."""
    user, before = "somebody new", engine.evaluations
    started = perf_counter()
    callers = (cache.get_or_load(*_request(user), engine.loader(user)) for _ in range(CALLERS))
    await asyncio.gather(*callers)
    return engine.evaluations - before, perf_counter() - started


class _Revocation(NamedTuple):
    """How a revocation went."""

    allowed: tuple[bool, bool, bool]
    """At first, when the engine would deny it already, and after the revocation."""
    entries: int
    seconds: float


async def _revocation(cache: RustPolicyCache, engine: Engine) -> _Revocation:
    """Suspends a user, and revokes what was decided before."""
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
    return _Revocation((at_first, until_revoked, await is_allowed()), entries, took)


async def _overtaken(cache: RustPolicyCache, engine: Engine) -> bool:
    """Whether what is revoked while it is being evaluated is stored."""
    user = "trudy"
    load = asyncio.ensure_future(cache.get_or_load(*_request(user), engine.loader(user)))
    await asyncio.sleep(EVALUATION_SECONDS / 2)
    await cache.invalidate(user_id=user)
    await load
    return await cache.get(*_request(user)) is not None


def _request(user_id: str) -> Request:
    return (user_id, "read", "doc:1")


def _microseconds(seconds: float) -> float:
    return round(1e6 * seconds, 3)
