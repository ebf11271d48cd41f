"""`sark-cache --check`: whether what is installed here works. It takes no extra.

Where `sark-cache doctor` looks at settings and servers, this looks at the package alone: that the
compiled module is there, made for this Python, and that a cache keeps what it promises. It is what
each wheel is tried with after it was built; it takes a few milliseconds and changes nothing.
"""

import asyncio
import sys
import sysconfig
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TypeAlias

import sark_cache
from sark_cache._core.compiled import is_rust_cache_available
from sark_cache.backends.native import RustPolicyCache
from sark_cache.cli._exit import ExitCode
from sark_cache.cli.doctor.environment import versions
from sark_cache.types import JSONObject

Request: TypeAlias = tuple[str, str, str]
Promise: TypeAlias = Callable[[RustPolicyCache], Awaitable[bool]]

READ: Request = ("alice", "read", "doc:1")
DECISION: JSONObject = {"allow": True, "reason": "owner", "obligations": ["audit"]}
TASKS = 100


def check() -> ExitCode:
    """Says on stdout what is installed and what of it works; the exit code says whether all does.

    What is wrong goes to stderr.
    """
    about = versions()
    _say(f"sark-cache {about['sark_cache']} on {about['python']}, {about['platform']}")
    if not is_rust_cache_available():
        return _wrong(_why_missing())
    _say(f"compiled module: {_of_compiled()}")
    broken = asyncio.run(broken_promises(), debug=False)
    if broken:
        return _wrong(f"the native cache does not work: {'; '.join(broken)}")
    _say(f"works: {', '.join(PROMISES)}")
    return ExitCode.FINE


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _wrong(message: str) -> ExitCode:
    sys.stderr.write(f"sark-cache: {message}\n")
    return ExitCode.WRONG


def _of_compiled() -> str:
    """Its file, whose name says for which Python and platform it was made, and its version."""
    module = import_module("sark_cache._native")
    threads = ""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        on = getattr(sys, "_is_gil_enabled", lambda: True)()
        threads = f", the GIL is {'on' if on else 'off'}"
    return f"{Path(str(module.__file__)).name}, version {module.__version__}{threads}"


def _why_missing() -> str:
    """What import said, and whether there is one that was made for another Python."""
    package = Path(sark_cache.__file__).parent
    files = sorted(path.name for pattern in ("*.so", "*.pyd") for path in package.glob(pattern))
    there = f"{package} has {', '.join(files) or 'none'}; this Python takes {EXTENSION_SUFFIXES[0]}"
    try:
        RustPolicyCache()
    except RuntimeError as error:
        return f"{error} ({there})"
    return there


async def broken_promises(kind: type[RustPolicyCache] = RustPolicyCache) -> list[str]:
    """Which of `PROMISES` new caches of this kind break, and how where they raise."""
    broken: list[str] = []
    for promise, keeps in PROMISES.items():
        try:
            async with kind(max_size=100, ttl_seconds=60) as cache:
                kept = await keeps(cache)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said
            broken.append(f"{promise} ({error!r})")
        else:
            if not kept:
                broken.append(promise)
    return broken


async def _stores_and_finds(cache: RustPolicyCache) -> bool:
    """What is found is a dict of one's own, and only under the request that it was stored for."""
    missed = await cache.get(*READ) is None
    stored = await cache.set(*READ, DECISION)
    found = await cache.get(*READ)
    other = await cache.get(*READ, {"mfa": True})
    return missed and stored and found == DECISION and found is not DECISION and other is None


async def _shares_a_decision(cache: RustPolicyCache) -> bool:
    await cache.set(*READ, DECISION)
    one, two = await cache.get_decision(*READ), await cache.get_decision(*READ)
    return one is not None and one is two and one.allow and one == DECISION


async def _loads_once(cache: RustPolicyCache) -> bool:
    loads: list[JSONObject] = []

    async def load() -> JSONObject:
        loads.append(DECISION)
        await asyncio.sleep(0)
        return DECISION

    got = await asyncio.gather(*(cache.get_or_load(*READ, load) for _ in range(TASKS)))
    return len(loads) == 1 and got == [DECISION] * TASKS and await cache.get(*READ) == DECISION


async def _serves_threads(cache: RustPolicyCache) -> bool:
    await cache.set(*READ, DECISION)
    found = await asyncio.to_thread(lambda: asyncio.run(_get(cache)))
    return found == DECISION


async def _get(cache: RustPolicyCache) -> JSONObject | None:
    return await cache.get(*READ)


async def _revokes(cache: RustPolicyCache) -> bool:
    """A user's decisions, those with a tag, and no others."""
    bob: Request = ("bob", *READ[1:])
    await cache.set(*READ, DECISION)
    await cache.set(*bob, DECISION, tags=["bundle:1"])
    of_user = await cache.invalidate(user_id=READ[0])
    revoked = await cache.get(*READ) is None and await cache.get(*bob) == DECISION
    of_tag = await cache.invalidate(tags=["bundle:1"])
    return revoked and (of_user, of_tag) == (1, 1) and await cache.get(*bob) is None


async def _stamps(cache: RustPolicyCache) -> bool:
    """What was evaluated before a revocation is not stored after it; what came later is."""
    before = cache.stamp()
    await cache.invalidate(user_id=READ[0])
    overtaken = await cache.set(*READ, DECISION, stamp=before)
    unserved = await cache.get(*READ) is None
    return not overtaken and unserved and await cache.set(*READ, DECISION, stamp=cache.stamp())


async def _drops_overtaken_loads(cache: RustPolicyCache) -> bool:
    async def load() -> JSONObject:
        await cache.invalidate(user_id=READ[0])
        return DECISION

    await cache.get_or_load(*READ, load)
    return await cache.get(*READ) is None


PROMISES: dict[str, Promise] = {
    "stores and finds": _stores_and_finds,
    "shares one decision": _shares_a_decision,
    "loads once for all who wait": _loads_once,
    "serves threads": _serves_threads,
    "revokes by user and by tag": _revokes,
    "refuses what a revocation overtook": _stamps,
    "stores no load that a revocation overtook": _drops_overtaken_loads,
}
"""What a cache promises, in few words, and what tries it on a new one."""
