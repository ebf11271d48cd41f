"""`sark-cache --check`: tests the installed package. Needs no extra.

It checks that the compiled module is there and was built for this Python, and that a cache keeps
its promises. It ignores settings and servers, which `sark-cache doctor` checks. It takes a few
milliseconds and changes nothing. Each wheel is tested with it after it was built.
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
from sark_cache.cli._timing import RequestFields
from sark_cache.cli.doctor.environment import versions
from sark_cache.types import JSONObject

Promise: TypeAlias = Callable[[RustPolicyCache], Awaitable[bool]]

READ: RequestFields = ("alice", "read", "doc:1")
DECISION: JSONObject = {"allow": True, "reason": "owner", "obligations": ["audit"]}
TASKS = 100


def check() -> ExitCode:
    """Prints the versions and the tested promises, and returns the exit code.

    Errors go to stderr.

    Returns:
        `FINE` if all promises are kept, else `WRONG`.
    """
    about = versions()
    _say(f"sark-cache {about['sark_cache']} on {about['python']}, {about['platform']}")
    if not is_rust_cache_available():
        return _wrong(_why_missing())
    _say(f"compiled module: {_compiled_module()}")
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


def _compiled_module() -> str:
    """Returns the compiled module's file name and version.

    The file name contains the Python and the platform that it was built for.
    """
    module = import_module("sark_cache._native")
    threads = ""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        on = getattr(sys, "_is_gil_enabled", lambda: True)()
        threads = f", the GIL is {'on' if on else 'off'}"
    return f"{Path(str(module.__file__)).name}, version {module.__version__}{threads}"


def _why_missing() -> str:
    """Returns the error of the import, and the compiled modules that the package's folder has.

    One that was built for another Python is among them.
    """
    package = Path(sark_cache.__file__).parent
    files = sorted(path.name for pattern in ("*.so", "*.pyd") for path in package.glob(pattern))
    there = f"{package} has {', '.join(files) or 'none'}; this Python takes {EXTENSION_SUFFIXES[0]}"
    try:
        RustPolicyCache()
    except RuntimeError as error:
        return f"{error} ({there})"
    return there


async def broken_promises(kind: type[RustPolicyCache] = RustPolicyCache) -> list[str]:
    """Returns the names of the `PROMISES` that a cache of this kind breaks.

    Each promise is tested on a new cache. An exception that it raises follows the name.
    """
    broken: list[str] = []
    for promise, is_kept in PROMISES.items():
        try:
            async with kind(max_size=100, ttl_seconds=60) as cache:
                kept = await is_kept(cache)
        except Exception as error:  # noqa: BLE001 - any error is reported
            broken.append(f"{promise} ({error!r})")
        else:
            if not kept:
                broken.append(promise)
    return broken


async def _stores_and_finds(cache: RustPolicyCache) -> bool:
    """Returns whether a hit is a new dict, and only the stored request is a hit."""
    missed = await cache.get(*READ) is None
    stored = await cache.set(*READ, DECISION)
    found = await cache.get(*READ)
    other = await cache.get(*READ, {"mfa": True})
    return missed and stored and found == DECISION and found is not DECISION and other is None


async def _shares_a_decision(cache: RustPolicyCache) -> bool:
    await cache.set(*READ, DECISION)
    first, second = await cache.get_decision(*READ), await cache.get_decision(*READ)
    return first is not None and first is second and first.allow and first == DECISION


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
    """Returns whether a revocation removes the decisions of a user or tag, and no others."""
    bob: RequestFields = ("bob", *READ[1:])
    await cache.set(*READ, DECISION)
    await cache.set(*bob, DECISION, tags=["bundle:1"])
    of_user = await cache.invalidate(user_id=READ[0])
    revoked = await cache.get(*READ) is None and await cache.get(*bob) == DECISION
    of_tag = await cache.invalidate(tags=["bundle:1"])
    return revoked and (of_user, of_tag) == (1, 1) and await cache.get(*bob) is None


async def _stamps(cache: RustPolicyCache) -> bool:
    """Returns whether `set` refuses a stamp that is older than a revocation, and no newer one."""
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
    "loads once for all waiters": _loads_once,
    "serves threads": _serves_threads,
    "revokes by user and by tag": _revokes,
    "refuses a decision older than a revocation": _stamps,
    "stores no load that began before a revocation": _drops_overtaken_loads,
}
"""The promises of a cache. Each function tests one on a new cache."""
