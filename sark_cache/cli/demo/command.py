"""`sark-cache demo`: runs the cache on this machine, and measures it."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from sark_cache._core.compiled import is_rust_cache_available
from sark_cache.cli._exit import ExitCode, FailureError, ending
from sark_cache.cli._options import AsJSON, RedisURL
from sark_cache.cli._output import console, counted, duration, rows, title, working, write_json
from sark_cache.cli._redis import connected, of_commands
from sark_cache.cli._settings import read_settings
from sark_cache.cli.demo.scenario import EVALUATION_SECONDS, Shown, measure_redis, show
from sark_cache.cli.doctor.environment import check_native

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

HELP = (
    "Runs the cache on this machine, and measures it.",
    (
        "Uses a simulated policy engine that takes 5 ms for each evaluation. The demo measures "
        "misses, hits, a thousand requests at once, and a revocation. It takes about a second and "
        "needs no server. If Redis is configured, the demo also stores one decision there, "
        "measures hits, and revokes the decision. Exits with 1 if a result is wrong."
    ),
)
EXAMPLES = (
    "sark-cache demo",
    "sark-cache demo --redis-url redis://localhost:6379/0",
    "sark-cache demo --json | jq .hit_us",
)


def demo(redis_url: RedisURL = None, *, as_json: AsJSON = False) -> None:
    """Runs and measures the native cache, and measures Redis."""
    with ending(as_json=as_json):
        settings, _ = read_settings(redis_url)
        if not is_rust_cache_available():
            raise FailureError(ExitCode.WRONG, str(check_native().problem))
        redis_us, failure = None, None
        with working("evaluating, asking and revoking"):
            # asyncio's debug mode would slow down what is measured.
            shown = asyncio.run(show(), debug=False)
            if settings.redis_url is not None:
                redis_us, failure = _redis_hit_us(settings)
        if not shown.is_right:
            failure = FailureError(ExitCode.WRONG, "a result of the demo is not what it should be")
        document = {**asdict(shown), "redis": settings.redis_address, "redis_hit_us": redis_us}
        if not as_json:
            _print_report(shown, settings, redis_us)
        if failure is not None:
            raise FailureError(failure.code, str(failure), document)
        if as_json:
            write_json({"ok": True, **document})


def _redis_hit_us(settings: "CacheSettings") -> tuple[float | None, FailureError | None]:
    """Measures a hit in Redis, in microseconds. Returns the failure if Redis does not answer."""
    try:
        with connected(settings, of_commands(settings)):
            return asyncio.run(measure_redis(settings), debug=False), None
    except FailureError as failure:
        return None, failure


def _print_report(shown: Shown, settings: "CacheSettings", redis_us: float | None) -> None:
    out = console()
    engine = f"A policy engine that takes {_format_us(1e6 * EVALUATION_SECONDS)}, behind a cache"
    title(out, engine)
    faster = f"{shown.evaluation_us / shown.hit_us:,.0f} times as fast"
    facts = {
        "evaluated": (shown.evaluation_us, f"{shown.evaluations} requests, the median"),
        "hit": (shown.hit_us, f"one of these requests again, {shown.hits:,} times: {faster}"),
    }
    if redis_us is not None:
        longer = f"{redis_us / shown.hit_us:,.0f} times as long"
        facts["hit in Redis"] = (redis_us, f"at {settings.redis_address}: {longer}")
    together = f"{shown.callers:,} callers of one request at once, all answered"
    evaluations = counted(shown.evaluations_for_callers, "evaluation", "evaluations")
    facts["single flight"] = (shown.callers_answered_after_us, f"{together}: {evaluations}")
    entries = counted(shown.entries_revoked, "entry", "entries")
    facts["revocation"] = (shown.revocation_us, f"of a user who was suspended: {entries} removed")
    rows(out, {name: f"{_format_us(took):>8}  {text}" for name, (took, text) in facts.items()})
    title(out, "That user is")
    rows(
        out,
        {
            "at first": _answer(shown.allowed_at_first),
            "once suspended": f"still {_answer(shown.allowed_until_revoked)}, by the cache",
            "once revoked": _answer(shown.allowed_after_revocation),
        },
    )
    title(out, "A revocation that arrives while the engine is still evaluating")
    stored = "stored, which is wrong: the next request gets a revoked decision"
    refused = "not stored: the next request is evaluated again"
    rows(out, {"the decision is": stored if shown.overtaken_was_stored else refused})


def _answer(allowed: bool) -> str:  # noqa: FBT001 - a decision
    return "allowed" if allowed else "denied"


def _format_us(microseconds: float) -> str:
    return duration(microseconds / 1e6)
