"""Checks of method arguments, the same as the compiled module's. Errors name the argument."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any, Final, NoReturn, TypeAlias

from sark_cache._core.json import type_name
from sark_cache._core.limits import (
    MAX_FIELD_BYTES,
    MAX_PATTERN_BYTES,
    MAX_POLICY_BYTES,
    MAX_REVOKED_TAGS,
    MAX_TAG_BYTES,
    MAX_TAGS,
    MAX_TTL_SECONDS,
)

NAMESPACE = re.compile(r"[A-Za-z0-9._:/-]{0,64}")
DEFAULT_MAX_BATCH = 1_000
DEFAULT_MAX_STALENESS = 1.0
MIN_MAX_STALENESS = 0.05
MAX_MAX_STALENESS = 60.0
MAX_STALENESS_WORDS = "a number of seconds from 0.05 to 60"
NAMESPACE_WORDS = "at most 64 letters, digits and characters of ._:/-"
MAX_REPLICAS = 1_000


class _NotGiven(tuple[str, ...]):
    """An empty default that is distinct from an empty tuple of the caller. Its repr is `()`."""

    __slots__ = ()


NOT_GIVEN: Final[tuple[str, ...]] = _NotGiven()
"""The default of `tags` in revocations. An empty collection given by the caller is an error."""


def refuse(argument: str, takes: str, given: object) -> NoReturn:
    """Raises a TypeError that names the argument, the accepted types, and the given type."""
    message = f"{argument} must be {takes}, not {type_name(given)}"
    raise TypeError(message)


def check_request(
    user_id: object, action: object, resource: object, context: object, sensitivity: object
) -> None:
    """Raises a TypeError unless all arguments of a request have the right types."""
    check_fields(user_id, action, resource)
    check_context(context)
    check_optional("sensitivity", sensitivity)


def check_pattern(pattern: object) -> None:
    """Checks a pattern.

    Raises:
        TypeError: The pattern is not a str.
        ValueError: The pattern is too long or has a lone surrogate.
    """
    if not isinstance(pattern, str):
        refuse("pattern", "a str", pattern)
    try:
        size = len(pattern.encode())
    except UnicodeEncodeError:
        message = "pattern must be UTF-8, but has a lone surrogate"
        raise ValueError(message) from None
    if size > MAX_PATTERN_BYTES:
        message = (
            f"pattern must be at most {MAX_PATTERN_BYTES} bytes: shorten it, or use invalidate()"
        )
        raise ValueError(message)


def check_text(argument: str, given: object) -> None:
    """Raises a TypeError unless `given` is a str."""
    if not isinstance(given, str):
        refuse(argument, "a str", given)


def check_fields(user_id: object, action: object, resource: object, where: str = "") -> None:
    """Raises a TypeError unless all three are str. `where` precedes the name in the message."""
    if not isinstance(user_id, str):
        refuse(f"{where}user_id", "a str", user_id)
    if not isinstance(action, str):
        refuse(f"{where}action", "a str", action)
    if not isinstance(resource, str):
        refuse(f"{where}resource", "a str", resource)


def check_context(context: object) -> None:
    """Raises a TypeError unless the context is a mapping or None."""
    if context is not None and not isinstance(context, Mapping):
        refuse("context", "a mapping or None", context)


def check_optional(argument: str, given: object) -> None:
    """Raises a TypeError unless `given` is a str or None."""
    if given is not None and not isinstance(given, str):
        refuse(argument, "a str or None", given)


def read_policy(policy: object) -> str:
    """Returns the name of a policy, checked.

    Raises:
        TypeError: `policy` is not a str.
    """
    if not isinstance(policy, str):
        refuse("policy", "a str", policy)
    return policy


def read_namespace(namespace: object) -> str:
    """Returns the prefix of every key of a cache in Redis, checked.

    Raises:
        TypeError: `namespace` is not a str.
        ValueError: `namespace` is too long, or has a character with a special meaning in a key or
            in a pattern.
    """
    if not isinstance(namespace, str):
        refuse("namespace", "a str", namespace)
    if not NAMESPACE.fullmatch(namespace):
        message = f"namespace must be {NAMESPACE_WORDS}, not {namespace[:80]!r}"
        raise ValueError(message)
    return namespace


def excess(text: str, limit: int) -> int | None:
    """Returns a size of `text` that exceeds `limit`, in bytes of UTF-8. None: it is within.

    Encodes the text only if its number of characters does not decide. The returned size may be
    smaller than the real one.
    """
    if len(text) > limit:
        return len(text)
    if 4 * len(text) <= limit or text.isascii():
        return None
    size = len(text.encode(errors="surrogatepass"))
    return size if size > limit else None


def beyond_limits(
    user_id: str, action: str, resource: str, policy: str = "", tags: Collection[str] = ()
) -> str | None:
    """Returns the reason why a decision exceeds the limits of the caches. None: it is within.

    The reason is for the log: it names the argument and the limit, never the given value.
    """
    fields = (("user_id", user_id), ("action", action), ("resource", resource))
    for name, field in fields:
        if excess(field, MAX_FIELD_BYTES) is not None:
            return f"{name} is longer than {MAX_FIELD_BYTES} bytes"
    if excess(policy, MAX_POLICY_BYTES) is not None:
        return f"policy is longer than {MAX_POLICY_BYTES} bytes"
    return beyond_tags(tags)


def beyond_tags(tags: Collection[str]) -> str | None:
    """Returns the reason why the tags exceed the limits of a decision. None: they are within."""
    if len(tags) > MAX_TAGS:
        return f"the decision has more than {MAX_TAGS} tags"
    if any(excess(tag, MAX_TAG_BYTES) is not None for tag in tags):
        return f"a tag is longer than {MAX_TAG_BYTES} bytes"
    return None


def check_decision(decision: object) -> None:
    """Raises a TypeError unless the decision is a mapping."""
    if not isinstance(decision, Mapping):
        refuse("decision", "a dict", decision)


def check_boolean(argument: str, given: object) -> bool:
    """Returns `given`. Raises a TypeError unless it is True or False."""
    if not isinstance(given, bool):
        refuse(argument, "True or False", given)
    return given


LOADER: Final = "an async function without arguments"
BATCH_LOADER: Final = "an async function that takes a list of requests"


def check_loader(loader: object, takes: str = LOADER) -> None:
    """Raises a TypeError unless the loader is callable. `takes` says what it has to be."""
    if not callable(loader):
        refuse("loader", takes, loader)


def read_max_batch(max_batch: object) -> int:
    """Returns the maximum number of requests in one call of a loader, checked.

    Raises:
        TypeError: It is not an int.
        ValueError: It is less than 1.
    """
    if not isinstance(max_batch, int) or isinstance(max_batch, bool):
        refuse("max_batch", "an int", max_batch)
    if max_batch < 1:
        message = f"max_batch must be at least 1, not {max_batch}"
        raise ValueError(message)
    return max_batch


def read_tags(tags: object) -> tuple[str, ...]:
    """Returns the tags of a decision, which may be any iterable except str, bytes or a mapping.

    Reads at most `MAX_TAGS` + 1 tags, so an endless iterable is no problem. `beyond_limits` then
    refuses the surplus.

    Raises:
        TypeError: `tags` is not such an iterable, or one of the tags is not a str.
    """
    return () if tags is None else _read_names(tags, MAX_TAGS + 1)


def read_revoked_tags(tags: object) -> tuple[str, ...]:
    """Returns the tags of a revocation. Empty: `tags` is `NOT_GIVEN` or None.

    Raises:
        TypeError: `tags` is refused by `read_tags`.
        ValueError: `tags` is empty, or has more than `MAX_REVOKED_TAGS` items.
    """
    if tags is None or tags is NOT_GIVEN:
        return ()
    names = _read_names(tags, MAX_REVOKED_TAGS + 1)
    if not names:
        message = (
            "tags must name at least one tag: omit it to revoke regardless of tags, or use "
            "clear() to revoke everything"
        )
        raise ValueError(message)
    if len(names) > MAX_REVOKED_TAGS:
        message = (
            f"tags must be at most {MAX_REVOKED_TAGS:,} in one revocation: revoke the others in "
            "another call"
        )
        raise ValueError(message)
    return names


def _read_names(tags: Any, most: int) -> tuple[str, ...]:  # noqa: ANN401 - any iterable
    if not _is_collection(tags):
        refuse("tags", "a list, tuple or set of str", tags)
    names: tuple[Any, ...] = tuple(islice(tags, most))
    for name in names:
        if not isinstance(name, str):
            refuse("a tag", "a str", name)
    return names


def read_ttl(ttl_seconds: object) -> float | None:
    """Returns a time to live in seconds, at most `MAX_TTL_SECONDS`. None: none is given.

    Raises:
        TypeError: `ttl_seconds` is not a number.
        ValueError: `ttl_seconds` is negative or NaN.
    """
    if ttl_seconds is None:
        return None
    if isinstance(ttl_seconds, bool) or not isinstance(ttl_seconds, int | float):
        refuse("ttl_seconds", "a number of seconds or None", ttl_seconds)
    if not ttl_seconds >= 0:  # refuses NaN, too
        message = f"ttl_seconds must be a number of seconds, 0 or more, not {ttl_seconds}"
        raise ValueError(message)
    return float(min(ttl_seconds, MAX_TTL_SECONDS))


def read_default_ttl(ttl_seconds: object, default: float) -> float:
    """Returns the time to live of a cache in seconds; `default` if none is given.

    Raises:
        TypeError: `ttl_seconds` is not a number.
        ValueError: `ttl_seconds` is 0, negative or NaN.
    """
    seconds = read_ttl(ttl_seconds)
    if seconds == 0:
        message = "ttl_seconds of a cache must be more than 0; to store nothing use enabled=False"
        raise ValueError(message)
    return default if seconds is None else seconds


def read_replicas(replicas: object) -> int | None:
    """Returns a number of replicas, or None, checked.

    Raises:
        TypeError: `replicas` is neither an integer nor None.
        ValueError: `replicas` is negative or more than 1,000.
    """
    if replicas is None:
        return None
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        refuse("replicas", "an integer, or None", replicas)
    if not 0 <= replicas <= MAX_REPLICAS:
        message = f"replicas must be from 0 to {MAX_REPLICAS}, not {replicas}"
        raise ValueError(message)
    return replicas


def read_timeout(argument: str, seconds: object) -> float:
    """Returns a time-out in seconds.

    Raises:
        TypeError: `seconds` is not a number.
        ValueError: `seconds` is not more than 0 and finite.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        refuse(argument, "a number of seconds", seconds)
    if not 0 < seconds < math.inf:
        message = f"{argument} must be more than 0 seconds and finite, not {seconds}"
        raise ValueError(message)
    return float(seconds)


def read_max_staleness(seconds: object) -> float:
    """Returns a `max_staleness` in seconds.

    Raises:
        TypeError: `seconds` is not a number.
        ValueError: `seconds` is less than 0.05 or more than 60.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        refuse("max_staleness", "a number of seconds", seconds)
    if not MIN_MAX_STALENESS <= seconds <= MAX_MAX_STALENESS:
        message = f"max_staleness must be {MAX_STALENESS_WORDS}, not {seconds}"
        raise ValueError(message)
    return float(seconds)


def read_latency(latency_ms: object) -> float:
    """Returns a duration in milliseconds.

    Raises:
        TypeError: `latency_ms` is not a number.
        ValueError: `latency_ms` is negative, infinite or NaN.
    """
    if isinstance(latency_ms, bool) or not isinstance(latency_ms, int | float):
        refuse("latency_ms", "a number of milliseconds", latency_ms)
    if not 0 <= latency_ms < math.inf:
        message = f"latency_ms must be a finite number of milliseconds, 0 or more, not {latency_ms}"
        raise ValueError(message)
    return float(latency_ms)


Row: TypeAlias = tuple[Any, ...]


def read_requests(requests: object) -> list[Row]:
    """Returns the rows of a batch of requests, each padded to four items.

    Raises:
        TypeError: `requests` is not an iterable of such rows.
    """
    return _read_rows("requests", requests, range(3, 5), "(user_id, action, resource, context)")


def check_resources(given: Any) -> Any:  # noqa: ANN401 - any iterable
    """Returns `given`. Raises a TypeError unless it is an iterable, but not a str."""
    if not _is_collection(given):
        refuse("resources", "an iterable of resources", given)
    return given


def read_entries(entries: object) -> list[Row]:
    """Returns the rows of a batch of entries, each padded to six items.

    Raises:
        TypeError: `entries` is not an iterable of such rows.
        ValueError: A time to live is negative or NaN.
    """
    shape = "(user_id, action, resource, decision, context, ttl_seconds)"
    rows = _read_rows("entries", entries, range(4, 7), shape)
    for row in rows:
        check_decision(row[3])
        read_ttl(row[5])
    return rows


def _is_collection(given: object) -> bool:
    """Returns whether `given` is an iterable, but not of letters, bytes or keys."""
    return isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)


def _is_row(given: object) -> bool:
    return isinstance(given, tuple | list)


def _read_rows(argument: str, given: Any, lengths: range, shape: str) -> list[Row]:  # noqa: ANN401
    """Returns the rows, which are tuples or lists of an allowed length, padded with None."""
    if not _is_collection(given):
        refuse(argument, f"a list of tuples {shape}", given)
    rows: list[Row] = []
    context = 3 if argument == "requests" else 4
    for index, row in enumerate(given):
        name = f"{argument}[{index}]"
        if not _is_row(row):
            refuse(name, f"a tuple {shape}", row)
        items: Row = tuple(row)
        if len(items) not in lengths:
            message = f"{name} must be a tuple {shape}, not a tuple of {len(items)} items"
            raise TypeError(message)
        full: Row = (*items, *(None,) * (lengths[-1] - len(items)))
        check_fields(full[0], full[1], full[2], where=f"{name}: ")
        check_context(full[context])
        rows.append(full)
    return rows
