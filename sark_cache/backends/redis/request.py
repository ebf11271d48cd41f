"""Requests and decisions, converted to keys and JSON for the servers."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sark_cache._core.arguments import beyond_limits, beyond_tags, excess
from sark_cache._core.json import JSON, NotJSONError, to_plain_mapping
from sark_cache._core.keys import RequestKey, Scope, digits_of, request_key
from sark_cache._core.limits import MAX_TAG_BYTES
from sark_cache.backends.redis.entry import encode, json_text, size_of
from sark_cache.backends.redis.log_record import subject
from sark_cache.backends.redis.write import Write, lifetime_ms, marker_of
from sark_cache.types import Context


class KeyedRequest(NamedTuple):
    """A request that can be looked up and stored. Its context is plain JSON."""

    policy: str
    user_id: str
    action: str
    resource: str
    context: dict[str, JSON] | None
    key: RequestKey
    size: int
    """The size of all fields and the context, in bytes."""

    @classmethod
    def read(
        cls,
        prefix: str,
        policy: str,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
    ) -> "KeyedRequest":
        """Converts a request.

        Raises:
            NotJSONError: A field is too long or not UTF-8, or the context is not JSON. If the
                context's own code raised an error, that is the cause.
        """
        beyond = beyond_limits(user_id, action, resource, policy)
        if beyond is not None:
            raise NotJSONError(beyond)
        copied = _plain("context", context) if context is not None else None
        try:
            sizes = map(size_of, (policy, user_id, action, resource))
            digits, size = digits_of(copied)
            key = request_key(prefix, policy, user_id, action, resource, digits)
            return cls(policy, user_id, action, resource, copied, key, size + sum(sizes))
        except UnicodeEncodeError:
            fields = {"policy": policy, "user_id": user_id, "action": action, "resource": resource}
            wrong = next(name for name, field in fields.items() if not is_utf8(field))
            message = f"{wrong}: a string with a lone surrogate, which UTF-8 cannot encode"
            raise NotJSONError(message) from None

    @property
    def scope(self) -> Scope:
        """The scope that contains this request alone, under its policy."""
        return Scope(self.user_id, self.action, self.resource, self.policy, self.key.context)

    @property
    def subject(self) -> dict[str, Any]:
        """The key and fields that records of the log are matched against. It has no tags."""
        return subject(self.key, self.scope)

    def write(self, decision: str, ttl_seconds: float, tags: tuple[str, ...]) -> Write:
        """Returns the write that stores a decision, given as text, for this request.

        Raises:
            NotJSONError: The entry is too large.
        """
        tags = tuple(dict.fromkeys(tags))
        return Write(
            self.key,
            marker_of(self.key),
            encode(self.key, self.size, decision, ttl_seconds, tags),
            lifetime_ms(ttl_seconds),
            json.dumps({**self.subject, "tags": tags}),
        )


def decision_text(decision: Mapping[str, Any], tags: tuple[str, ...]) -> str:
    """Returns a decision as text.

    Raises:
        NotJSONError: The decision is not JSON, or there are too many tags, a tag is too long, or a
            tag is not UTF-8.
    """
    beyond = beyond_tags(tags)
    if beyond is not None:
        raise NotJSONError(beyond)
    if not all(map(is_utf8, tags)):
        message = "a tag: a string with a lone surrogate, which UTF-8 cannot encode"
        raise NotJSONError(message)
    return json_text(_plain("decision", decision))


def _plain(argument: str, given: Mapping[str, Any]) -> dict[str, JSON]:
    """Returns a mapping as plain JSON.

    Raises:
        NotJSONError: The mapping is not JSON. The message names the argument.
    """
    try:
        return to_plain_mapping(given)
    except NotJSONError as error:
        if error.__cause__ is not None:  # its own code raised
            raise
        message = f"{argument}: {error}"
        raise NotJSONError(message) from None


def can_be_fields(scope: Scope) -> bool:
    """Returns whether a decision can have the fields of a scope."""
    named = {name: part or "" for name, part in scope._asdict().items() if name != "context"}
    return beyond_limits(**named) is None and all(map(is_utf8, named.values()))


def can_be_tag(tag: str) -> bool:
    """Returns whether a decision can have a tag."""
    return excess(tag, MAX_TAG_BYTES) is None and is_utf8(tag)


def is_utf8(text: str) -> bool:
    """Returns whether a text can be encoded as UTF-8, so has no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
