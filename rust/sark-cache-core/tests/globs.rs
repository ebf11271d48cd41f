//! Patterns match as in Redis, and the fields of a request are never patterns.

use proptest::prelude::*;
use sark_cache_core::key::{KeyParts, KeyTexts, key_text};
use sark_cache_core::limits::MAX_PATTERN_BYTES;
use sark_cache_core::{Glob, KeyWriter};

fn text(user: &str, action: &str, resource: &str) -> String {
    let mut writer = KeyWriter::new();
    writer.request(user, action, resource).unwrap();
    key_text(&KeyParts::of(writer.as_bytes()).unwrap())
}

fn glob(pattern: &str) -> Glob {
    Glob::new(pattern).expect("short enough")
}

#[test]
fn a_pattern_that_is_too_long_is_refused() {
    assert!(Glob::new(&"x".repeat(MAX_PATTERN_BYTES)).is_some());
    assert!(Glob::new(&"x".repeat(MAX_PATTERN_BYTES + 1)).is_none());
}

#[test]
fn patterns_match_as_in_redis() {
    // Compared with `KEYS` of a Redis 7.0 server, except for the rows with an empty text.
    for (pattern, text, matches) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("a*", "abc", true),
        ("*c", "abc", true),
        ("*b", "abc", false),
        ("a*b*c", "axxbyybzzc", true),
        ("a**c", "abc", true),
        ("?", "", false),
        ("a?c", "abc", true),
        ("h[ae]llo", "hello", true),
        ("h[ae]llo", "hillo", false),
        ("h[^e]llo", "hello", false),
        ("h[^e]llo", "hallo", true),
        ("h[a-c]llo", "hbllo", true),
        ("h[c-a]llo", "hbllo", true),
        ("h[a-c]llo", "hdllo", false),
        (r"a\*", "a*", true),
        (r"a\*", "ab", false),
        (r"[\]]", "]", true),
        ("[ab", "a", true),
        ("[]", "]", false),
        ("a-z", "a-z", true),
        (r"[\?-b]", "-", true),
        (r"[\?-b]", "A", false),
        ("a*?c*", "abxcd", true),
        ("a*?c*", "acd", false),
        ("*a*a*", "a", false),
        ("ab*ba", "aba", false),
        ("ab*ba", "abba", true),
        ("*[0-9]*[0-9]*", "a1b2c", true),
        ("*[0-9]*[0-9]*", "a1bc", false),
    ] {
        assert_eq!(glob(pattern).matches(text), matches, "{pattern:?} on {text:?}");
    }
}

#[test]
fn matching_is_not_exponential() {
    let pattern = "a*".repeat(500);
    assert!(!glob(&format!("{pattern}b")).matches(&"a".repeat(100_000)));
    let pattern = "a".repeat(1_000);
    assert!(!glob(&format!("*{pattern}b*")).matches(&"a".repeat(10_000_000)));
}

#[test]
fn the_text_key_is_the_documented_one() {
    assert_eq!(text("alice", "read", "doc/1"), "policy:decision:alice:read:doc/1:none");
    assert_eq!(
        text("a:b*", "c?", "[d]\\%\n{}"),
        "policy:decision:a%3Ab%2A:c%3F:%5Bd%5D%5C%25%0A%7B%7D:none"
    );
}

fn matches(pattern: &str, [user, action, resource]: [&str; 3]) -> bool {
    let mut writer = KeyWriter::new();
    writer.request(user, action, resource).unwrap();
    glob(pattern).matches_any(&KeyTexts::of(&KeyParts::of(writer.as_bytes()).unwrap()))
}

#[test]
fn a_pattern_matches_a_request_in_each_of_three_spellings() {
    let request = ["user:1", "tool:invoke", "jira:a/b*"];
    for pattern in [
        "policy:decision:user%3A1:tool%3Ainvoke:jira%3Aa/b%2A:none",
        "policy:decision:user:1:tool:invoke:jira:a/b\\*:none",
        "policy:decision:user:1:tool:invoke:jira_a_b\\*:none",
        "policy:decision:user:1:tool:invoke:*",
        "*:jira_*",
        "*:jira:*",
        "*:jira%3A*",
    ] {
        assert!(matches(pattern, request), "{pattern}");
    }
    for pattern in [
        "policy:decision:user_1:*",
        "policy:decision:user:1:tool_invoke:*",
        "policy:decision:user:1:tool:invoke:jira_a/b*:none",
        "policy:decision:user%3A1:tool:invoke:*",
        "user:1:*",
    ] {
        assert!(!matches(pattern, request), "{pattern}");
    }
}

#[test]
fn only_a_resource_is_spelled_with_underscores() {
    assert!(!matches("*:a_b:*", ["a:b", "a/b", "doc"]));
    assert!(matches("*:a_b:*", ["user", "read", "a/b"]));
}

proptest! {
    #[test]
    fn a_field_matches_only_itself_as_a_pattern(a in "[:*?a\\[\\]\\\\^%-]{0,6}", b in "[:*?a\\[\\]\\\\^%-]{0,6}") {
        let pattern = text(&a, "read", "doc");
        prop_assert_eq!(glob(&pattern).matches(&text(&b, "read", "doc")), a == b);
        if a == b {
            prop_assert!(matches(&pattern, [&b, "read", "doc"]));
        }
    }

    #[test]
    fn different_requests_have_different_texts(
        a in prop::array::uniform3("[:/_*%a\u{0}]{0,3}"),
        b in prop::array::uniform3("[:/_*%a\u{0}]{0,3}"),
    ) {
        prop_assert_eq!(text(&a[0], &a[1], &a[2]) == text(&b[0], &b[1], &b[2]), a == b);
    }
}
