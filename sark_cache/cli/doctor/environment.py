"""The installation: versions, extras, and a test of the compiled module."""

import asyncio
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import sark_cache
from sark_cache.backends.native import RustPolicyCache
from sark_cache.cli._timing import RequestFields, seconds_per_call

PACKAGE = "sark-cache"
ROUNDS = 50
CALLS = 200

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?.*\bextra\s*==\s*['\"]([\w-]+)['\"]")
"""`name[extras]>=version; extra == "extra"`: the package, its extras, and the extra needing it."""


def versions() -> dict[str, str]:
    """Returns the versions of this package, of Python and of the platform."""
    return {
        "sark_cache": sark_cache.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
    }


def extras() -> dict[str, dict[str, str | None]]:
    """Returns the packages that each extra needs, with their versions; None for a missing one."""
    try:
        names = metadata(PACKAGE).get_all("Provides-Extra") or []
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return {}
    found = [match for line in lines if (match := _REQUIREMENT.match(line))]
    direct = {name: [match for match in found if match[3] == name] for name in names}
    return {name: _packages(name, direct) for name in names}


def _packages(extra: str, direct: dict[str, list[re.Match[str]]]) -> dict[str, str | None]:
    packages: dict[str, str | None] = {}
    for requirement in direct[extra]:
        if requirement[1] == PACKAGE:
            for other in requirement[2].split(","):
                packages |= _packages(other, direct)
        else:
            packages[requirement[1]] = _version(requirement[1])
    return packages


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Native:
    """The result of a test of the compiled module."""

    available: bool
    works: bool
    hit_nanoseconds: float | None
    problem: str | None


def check_native() -> Native:
    """Stores, looks up and revokes a decision in a new native cache. Takes about 20 ms."""
    try:
        cache = RustPolicyCache()
    except RuntimeError as error:
        return Native(available=False, works=False, hit_nanoseconds=None, problem=str(error))
    # asyncio's debug mode would slow down what is measured.
    return asyncio.run(_check(cache), debug=False)


async def _check(cache: RustPolicyCache) -> Native:
    request: RequestFields = ("alice", "read", "doc:1")
    decision = {"allow": True, "reason": "owner"}
    async with cache:
        stored = await cache.set(*request, decision)
        found = await cache.get(*request)
        took = await seconds_per_call(cache.get, request, rounds=ROUNDS, calls=CALLS)
        revoked = await cache.invalidate(user_id=request[0])
        left = await cache.get(*request)
    works = stored and found == decision and revoked == 1 and left is None
    return Native(
        available=True,
        works=works,
        hit_nanoseconds=round(1e9 * took, 1),
        problem=None if works else "the native cache does not keep or revoke a test decision",
    )
