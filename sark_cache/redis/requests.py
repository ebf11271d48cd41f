"""Requests and decisions as they go to the servers: plain JSON under a key of text."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sark_cache.keys import RequestKey, request_key
from sark_cache.plain import JSON, NotJSONError, plain_mapping
from sark_cache.redis.entry import encode, written
from sark_cache.redis.store import Write, subject
from sark_cache.types import Context


class Request(NamedTuple):
    """A request whose context is plain JSON."""

    user_id: str
    action: str
    resource: str
    context: dict[str, JSON] | None
    key: RequestKey

    @classmethod
    def read(
        cls, prefix: str, user_id: str, action: str, resource: str, context: Context | None
    ) -> "Request":
        """Reads a request.

        Raises:
            NotJSONError: It cannot be a key; the cause is what the context's own code raised.
        """
        copied = plain_mapping(context) if context is not None else None
        if not (is_utf8(user_id) and is_utf8(action) and is_utf8(resource)):
            message = "a string with a lone surrogate, which UTF-8 cannot hold"
            raise NotJSONError(message)
        key = request_key(prefix, user_id, action, resource, copied)
        return cls(user_id, action, resource, copied, key)

    def write(self, decision: str, ttl_seconds: float, tags: tuple[str, ...]) -> Write:
        """What stores a decision, whose text is given, for this request.

        Raises:
            NotJSONError: It is too large.
        """
        tags = tuple(dict.fromkeys(tags))
        return Write(
            self.key,
            encode(self.key, decision, ttl_seconds, tags),
            max(1, int(ttl_seconds * 1e3)),
            subject(self.key, self.user_id, self.action, self.resource, tags),
        )


def decision_text(decision: Mapping[str, Any], tags: tuple[str, ...]) -> str:
    """A decision as text, if that and its tags can be stored.

    Raises:
        NotJSONError: They cannot.
    """
    if not all(map(is_utf8, tags)):
        message = "a tag with a lone surrogate, which UTF-8 cannot hold"
        raise NotJSONError(message)
    return written(plain_mapping(decision))


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
