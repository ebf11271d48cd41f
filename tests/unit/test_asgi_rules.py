"""The rules of `PolicyMiddleware`: the first one that covers a request decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark_cache.asgi import Rule
from sark_cache.asgi.rules import RuleTable, Template

DOCUMENT = Rule("/documents/{document}", ["GET"], "read", "document:{document}")
RULES = [
    Rule("/", public=True),
    Rule("/health", public=True),
    DOCUMENT,
    Rule("/documents/new", ["GET", "POST"], "create", "documents"),
    Rule("/documents/{document}", ["PUT", "DELETE"]),
    Rule("/files/{file:path}", ["GET"], "read", "file:{file}"),
    Rule("/live", ["WEBSOCKET"], "watch", "live"),
    Rule("/{tenant}/users/{user}", resource="user:{tenant}:{user}"),
]
TABLE = RuleTable(RULES)

DENIED = None
PUBLIC = "public"
BY_REQUEST = (None, None)

PATHS = [
    # Paths without placeholders.
    ("GET", "/", PUBLIC),
    ("POST", "/", PUBLIC),
    ("GET", "/health", PUBLIC),
    ("GET", "/health/", DENIED),
    ("GET", "/Health", DENIED),
    ("GET", "//health", DENIED),
    ("GET", "/health?", DENIED),
    ("GET", "", DENIED),
    ("GET", "/nothing", DENIED),
    # One part.
    ("GET", "/documents/7", ("read", "document:7")),
    ("GET", "/documents/a b", ("read", "document:a b")),
    ("GET", "/documents/ä", ("read", "document:ä")),
    ("GET", "/documents/%2e%2e", ("read", "document:%2e%2e")),
    ("GET", "/documents/...", ("read", "document:...")),
    ("GET", "/documents/.hidden", ("read", "document:.hidden")),
    ("GET", "/documents/", DENIED),
    ("GET", "/documents/7/", DENIED),
    ("GET", "/documents/7/8", DENIED),
    ("GET", "/documents//7", DENIED),
    ("GET", "/documents/.", DENIED),
    ("GET", "/documents/..", DENIED),
    ("GET", "/documents/a\\b", DENIED),
    ("GET", "/documents/a\nb", DENIED),
    ("GET", "/documents/a\x00", DENIED),
    ("GET", "/documents/7\n", DENIED),
    ("GET", "/Documents/7", DENIED),
    # Several parts.
    ("GET", "/files/a", ("read", "file:a")),
    ("GET", "/files/a/b/c.txt", ("read", "file:a/b/c.txt")),
    ("GET", "/files/", DENIED),
    ("GET", "/files/a//b", DENIED),
    ("GET", "/files/a/../b", DENIED),
    ("GET", "/files/../health", DENIED),
    ("GET", "/files/a/.", DENIED),
    ("GET", "/files/a/", DENIED),
    ("GET", "/files/" + "a" * 8_185, ("read", "file:" + "a" * 8_185)),
    ("GET", "/files/" + "a" * 8_186, DENIED),
    ("GET", "/files/" + "a/" * 30_000 + "a", DENIED),
    # Methods.
    ("HEAD", "/documents/7", ("read", "document:7")),
    ("PUT", "/documents/7", BY_REQUEST),
    ("PATCH", "/documents/7", DENIED),
    ("OPTIONS", "/documents/7", DENIED),
    ("get", "/documents/7", DENIED),
    ("POST", "/documents/new", ("create", "documents")),
    ("WEBSOCKET", "/live", ("watch", "live")),
    ("GET", "/live", DENIED),
    # The first rule decides, and a value that would be ambiguous is denied.
    ("GET", "/documents/new", ("read", "document:new")),
    ("POST", "/shop/users/7", (None, "user:shop:7")),
    ("POST", "/shop/users/7:8", (None, "user:shop:7:8")),
    ("POST", "/shop:7/users/8", DENIED),
]


@pytest.mark.parametrize(("method", "path", "expected"), PATHS)
def test_a_request_is_covered_by_the_first_rule_that_matches(method, path, expected):
    found = TABLE.find(method, path)
    if found is not None:
        found = PUBLIC if found.rule.public else (found.action, found.resource)
    assert found == expected


def test_without_rules_everything_is_denied():
    assert RuleTable([]).find("GET", "/") is None


@given(st.text(), st.text(), st.text(), st.text())
def test_different_values_never_give_the_same_text(first, second, other, another):
    template = Template("user:{a}::{b}", ["a", "b"])
    one = template.render({"a": first, "b": second})
    two = template.render({"a": other, "b": another})
    if one is not None and one == two:
        assert (first, second) == (other, another)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("documents",), "path must begin with /"),
        ((7,), "path must be a str, not int"),
        (("/{a}/{a}",), "twice"),
        (("/{a:path}/b",), "before its end"),
        (("/{a:int}",), "write {name} or {name:path}"),
        (("/{}",), "write {name} or {name:path}"),
        (("/{a",), "brace outside"),
        (("/x{a}",), "whole part"),
        (("/{a}x",), "whole part"),
        (("/", "GET"), "methods must be a list of str, not str"),
        (("/", ["get"]), "methods must be capital letters and hyphens"),
        (("/a//b",), "Write the decoded path"),
        (("/a/../b",), "Write the decoded path"),
        (("/a%20b",), "Write the decoded path"),
        (("/a?b",), "Write the decoded path"),
        (("/", [], ""), "action is empty"),
        (("/", [7]), "methods must be a list of str, not int"),
        (("/", [], 7), "action must be a str or None, not int"),
        (
            ("/", [], "{a}"),
            "action has the placeholder {a}, which path does not have",
        ),
        (("/{a}", [], None, "{b}"), "which path does not have: use {a}"),
        (("/{a}/{b}", [], None, "{a}{b}"), "side by side"),
        (("/{a}", [], None, "{a"), "brace outside"),
        (("/", [], "read", None, True), "a public rule must not have action or resource"),
        (("/", [], None, None, 1), "public must be a bool, not int"),
        (("/", [], "x" * 10_000), "at most 8192 bytes"),
    ],
)
def test_a_wrong_rule_is_refused(arguments, message):
    with pytest.raises((TypeError, ValueError)) as refused:
        Rule(*arguments)
    assert message in str(refused.value)


def test_only_rules_are_taken():
    with pytest.raises(TypeError, match="rules must be a list of Rule, not str"):
        RuleTable(["/health"])
