//! A decision is valid exactly while no newer record matches it. In doubt it is revoked.

use proptest::prelude::*;
use sark_cache_core::invalidation::{Log, MAX_GLOBS, MAX_RECORDS, Subject, Verdict};
use sark_cache_core::key::{KEY_PREFIX, KeyParts, key_text};
use sark_cache_core::limits::MAX_PATTERN_BYTES;
use sark_cache_core::{Glob, KeyWriter, Scope, Stamp};

const SECOND: u64 = 1_000_000_000;

fn key(user: &str, action: &str, resource: &str) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.request(user, action, resource).unwrap();
    writer.as_bytes().to_vec()
}

fn key_under(policy: &str, [user, action, resource]: [&str; 3]) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.policy(policy).unwrap();
    writer.request(user, action, resource).unwrap();
    writer.as_bytes().to_vec()
}

fn glob(pattern: &str) -> Scope {
    Scope::Glob(Glob::new(pattern).expect("short enough"))
}

fn is_valid(log: &Log, stamp: Stamp, key: &[u8], tags: &[u64]) -> bool {
    log.verdict(stamp, Subject { key, tags }) != Verdict::Invalidated
}

#[derive(Debug, Clone)]
struct Record {
    policy: Option<String>,
    fields: [Option<String>; 3],
    tags: Vec<String>,
}

impl Record {
    fn matches(&self, policy: &String, decision: &[String; 3], tags: &[String]) -> bool {
        self.policy.as_ref().is_none_or(|wanted| wanted == policy)
            && self
                .fields
                .iter()
                .zip(decision)
                .all(|(field, part)| field.as_ref().is_none_or(|f| f == part))
            && (self.tags.is_empty() || self.tags.iter().any(|tag| tags.contains(tag)))
    }

    fn scope(&self) -> Scope {
        let tags: Vec<&str> = self.tags.iter().map(String::as_str).collect();
        Scope::under(self.policy.as_deref(), self.fields.each_ref().map(Option::as_deref), &tags)
    }
}

fn record() -> impl Strategy<Value = Record> {
    (
        prop::option::of("[p]?"),
        prop::array::uniform3(prop::option::of("[ab]")),
        prop::collection::vec("[xy]", 0..2),
    )
        .prop_map(|(policy, fields, tags)| Record { policy, fields, tags })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_decision_is_valid_exactly_until_a_newer_record_matches(
        before in prop::collection::vec(record(), 0..6),
        after in prop::collection::vec(record(), 0..6),
        policy in "[p]?",
        decision in prop::array::uniform3("[ab]"),
        tags in prop::collection::vec("[xy]", 0..2),
    ) {
        let log = Log::new();
        for record in &before {
            log.record(&record.scope(), 0);
        }
        let stamp = log.newest();
        for record in &after {
            log.record(&record.scope(), 0);
        }
        let numbers = log.tags(&tags);
        let subject = key_under(&policy, decision.each_ref().map(String::as_str));
        let expected = !after.iter().any(|record| record.matches(&policy, &decision, &tags));
        prop_assert_eq!(is_valid(&log, stamp, &subject, &numbers), expected);
    }
}

proptest! {
    #[test]
    fn tags_are_sets(
        one in prop::collection::vec("[a-h]", 0..12),
        other in prop::collection::vec("[a-h]", 0..12),
    ) {
        use std::collections::BTreeSet;
        let log = Log::new();
        let numbers = |names: &[String]| -> BTreeSet<u64> { log.tags(names).iter().copied().collect() };
        let [a, b] = [&one, &other].map(|names| log.tags(names));
        let both: Vec<u64> = numbers(&one).union(&numbers(&other)).copied().collect();
        let rest: Vec<u64> = numbers(&one).difference(&numbers(&other)).copied().collect();
        prop_assert_eq!(&*a.union(&b), both);
        prop_assert_eq!(&*a.difference(&b), rest);
    }
}

#[test]
fn a_valid_decision_gets_the_newest_stamp() {
    let log = Log::new();
    let stamp = log.newest();
    let record = log.record(&Scope::of([Some("bob"), None, None], &[]), 0).stamp;
    let alice = key("alice", "read", "doc");
    assert_eq!(log.verdict(stamp, Subject { key: &alice, tags: &[] }), Verdict::Valid(record));
}

#[test]
fn a_key_is_revoked_alone() {
    let log = Log::new();
    let stamp = log.newest();
    log.record(&Scope::Key(key("alice", "read", "doc").into()), 0);
    assert!(!is_valid(&log, stamp, &key("alice", "read", "doc"), &[]));
    assert!(is_valid(&log, stamp, &key("alice", "read", "doc2"), &[]));
}

#[test]
fn a_request_is_revoked_under_every_policy() {
    let log = Log::new();
    let stamp = log.newest();
    log.record(&Scope::Request(key("alice", "read", "doc").into()), 0);
    for policy in ["", "admins", "members"] {
        assert!(!is_valid(&log, stamp, &key_under(policy, ["alice", "read", "doc"]), &[]));
        assert!(is_valid(&log, stamp, &key_under(policy, ["alice", "read", "doc2"]), &[]));
    }
    assert!(is_valid(&log, log.newest(), &key("alice", "read", "doc"), &[]));
}

#[test]
fn a_key_under_one_policy_is_revoked_alone() {
    let log = Log::new();
    let stamp = log.newest();
    log.record(&Scope::Key(key_under("admins", ["alice", "read", "doc"]).into()), 0);
    assert!(!is_valid(&log, stamp, &key_under("admins", ["alice", "read", "doc"]), &[]));
    assert!(is_valid(&log, stamp, &key_under("members", ["alice", "read", "doc"]), &[]));
    assert!(is_valid(&log, stamp, &key("alice", "read", "doc"), &[]));
}

#[test]
fn a_pattern_revokes_a_running_evaluation() {
    let log = Log::new();
    let stamp = log.newest();
    log.record(&glob("policy:decision:alice:*"), 0);
    assert!(!is_valid(&log, stamp, &key("alice", "read", "doc"), &[]));
    assert!(is_valid(&log, stamp, &key("bob", "read", "doc"), &[]));
    assert!(is_valid(&log, log.newest(), &key("alice", "read", "doc"), &[]));
}

#[test]
fn records_outlive_the_longest_time_to_live_and_are_pruned_after_it() {
    let log = Log::new();
    log.retain_for(100 * SECOND);
    let stamp = log.newest();
    let name = |i: u64| format!("user-{i}");
    for i in 0..1000 {
        log.record(&Scope::of([Some(&name(i)), None, None], &[]), 0);
    }
    // Shortly before the longest time to live ends, every record is kept.
    for i in 1000..2000 {
        log.record(&Scope::of([Some(&name(i)), None, None], &[]), 99 * SECOND);
    }
    assert_eq!(log.len(), 2000);
    assert!(is_valid(&log, stamp, &key("alice", "", ""), &[]));
    // Long after it, the records that only match expired decisions have been removed.
    for i in 2000..6000 {
        log.record(&Scope::of([Some(&name(i)), None, None], &[]), 300 * SECOND);
    }
    assert!(log.len() <= 4001, "{} records are left", log.len());
    // A decision of their age is revoked, not served.
    assert!(!is_valid(&log, stamp, &key("alice", "", ""), &[]));
    assert!(!is_valid(&log, stamp, &key("user-0", "", ""), &[]));
}

#[test]
fn a_full_log_revokes_all_older_decisions() {
    let log = Log::new();
    let old = log.newest();
    for i in 0..=MAX_RECORDS as u64 {
        log.record(&Scope::of([Some(&i.to_string()), None, None], &[]), 0);
    }
    assert!(log.len() <= MAX_RECORDS);
    assert!(!is_valid(&log, old, &key("0", "", ""), &[]), "the first record still counts");
    assert!(!is_valid(&log, old, &key("nobody", "", ""), &[]));
    assert!(is_valid(&log, log.newest(), &key("0", "", ""), &[]));
}

#[test]
fn too_many_patterns_revoke_all_older_decisions() {
    let log = Log::new();
    let old = log.newest();
    for i in 0..=MAX_GLOBS {
        let recorded = log.record(&glob(&format!("policy:decision:user-{i}:*")), 0);
        assert_eq!(recorded.everything, i == MAX_GLOBS);
    }
    assert!(log.len() <= MAX_GLOBS);
    assert!(!is_valid(&log, old, &key("user-0", "", ""), &[]));
}

#[test]
fn a_repeated_pattern_takes_no_memory_and_old_patterns_are_removed() {
    let log = Log::new();
    for _ in 0..1_000 {
        assert!(!log.record(&glob("policy:decision:alice:*"), 0).everything);
    }
    assert_eq!(log.len(), 1);
    for i in 0..1_000 {
        let much_later = i * 100 * SECOND;
        assert!(!log.record(&glob(&format!("policy:decision:user-{i}:*")), much_later).everything);
    }
    assert!(log.len() <= MAX_GLOBS);
}

#[test]
fn revoking_one_user_repeatedly_takes_no_memory() {
    let log = Log::new();
    for _ in 0..10_000 {
        log.record(&Scope::of([Some("alice"), None, None], &[]), 0);
    }
    assert_eq!(log.len(), 1);
}

#[test]
fn other_threads_see_a_record_as_soon_as_it_is_made() {
    let log = Log::new();
    let alice = key("alice", "read", "doc");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (log, alice) = (&log, &alice);
            scope.spawn(move || {
                for i in 0..5_000 {
                    let stamp = log.newest();
                    // Enough scopes that the table grows while the other threads read it.
                    let other = format!("{thread}-{i}");
                    log.record(&Scope::of([Some(&other), None, None], &[]), 0);
                    log.record(&Scope::of([Some("alice"), None, None], &[]), 0);
                    assert!(!is_valid(log, stamp, alice, &[]));
                    assert!(!is_valid(log, stamp, &key(&other, "", ""), &[]));
                }
            });
        }
    });
    assert_eq!(log.len(), 20_001);
}

proptest! {
    #[test]
    fn the_scope_of_a_keys_text_covers_the_key_and_no_other_request(
        fields in prop::array::uniform3("[a:%*é\\\\{ /]{0,4}"),
        policy in "[p:%]{0,2}",
        other in "[a:%*é]{0,4}",
    ) {
        let [user, action, resource] = fields.each_ref().map(String::as_str);
        let subject = key_under(&policy, [user, action, resource]);
        let text = key_text(&KeyParts::of(&subject).unwrap());
        let parts = text.strip_prefix(KEY_PREFIX).unwrap().strip_prefix(':').unwrap();
        let scope = Scope::of_key_text(parts);
        prop_assert_ne!(&scope, &Scope::Everything);
        let log = Log::new();
        let stamp = log.newest();
        log.record(&scope, 0);
        prop_assert!(!is_valid(&log, stamp, &subject, &[]));
        let elsewhere = key_under(&policy, [user, action, &other]);
        prop_assert_eq!(is_valid(&log, stamp, &elsewhere, &[]), other != resource);
    }
}

#[test]
fn the_scope_of_a_keys_text_names_the_policy_that_the_text_names() {
    assert_eq!(
        Scope::of_key_text("admins:ali%3Ace:read:doc:none"),
        Scope::under(Some("admins"), [Some("ali:ce"), Some("read"), Some("doc")], &[]),
    );
    assert_eq!(
        Scope::of_key_text(":alice:read:doc:0123456789abcdef0123456789abcdef"),
        Scope::under(Some(""), [Some("alice"), Some("read"), Some("doc")], &[]),
    );
    assert_eq!(
        Scope::of_key_text("alice:read:doc:none"),
        Scope::of([Some("alice"), Some("read"), Some("doc")], &[]),
    );
}

#[test]
fn the_scope_of_a_text_that_cannot_be_read_is_everything() {
    for text in ["", "alice", "a:b:c", "a:b:c:d:e:f", "a%:b:c:d", "a%G0:b:c:d", "a%FF:b:c:d"] {
        assert_eq!(Scope::of_key_text(text), Scope::Everything, "{text}");
    }
    assert_eq!(Scope::of_pattern(&"*".repeat(MAX_PATTERN_BYTES + 1)), Scope::Everything);
    assert_eq!(Scope::of_pattern("policy:decision:*"), glob("policy:decision:*"));
}
