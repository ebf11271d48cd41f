//! A stored decision is served until it expires, is evicted or is revoked, and not after.

use sark_cache_core::invalidation::{MAX_GLOBS, MAX_RECORDS};
use sark_cache_core::limits::{ENTRY_OVERHEAD, MAX_ENTRY_BYTES, MAX_TAGS};
use sark_cache_core::metrics::Latencies;
use sark_cache_core::{
    Cache, Eviction, Glob, InsertError, Key, KeyWriter, Lease, Options, Scope, Tags, poll_once,
};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

type TestCache = Arc<Cache<Vec<u8>>>;

const MINUTE: Duration = Duration::from_secs(60);

fn cache(max_size: u64) -> TestCache {
    sized(Options::new(max_size))
}

fn sized(options: Options) -> TestCache {
    Arc::new(Cache::new(options))
}

fn key(user: &str, action: &str, resource: &str) -> Key {
    let mut writer = KeyWriter::new();
    writer.request(user, action, resource).unwrap();
    writer.to_key()
}

/// Polls a future until it is ready, without a runtime.
fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

fn put(cache: &TestCache, key: Key, value: &[u8]) -> Result<(), InsertError> {
    wait(cache.insert(key, value.to_vec(), MINUTE, Tags::default(), cache.stamp()))
}

fn get(cache: &TestCache, key: &Key) -> Option<Vec<u8>> {
    poll_once(cache.get(key.as_bytes())).expect("ready at once").map(|entry| entry.value().clone())
}

#[test]
fn a_stored_decision_is_served() {
    let cache = cache(10);
    let alice = key("alice", "read", "doc");
    assert_eq!(get(&cache, &alice), None);
    put(&cache, alice.clone(), b"allow").unwrap();
    assert_eq!(get(&cache, &alice), Some(b"allow".to_vec()));
    assert_eq!(get(&cache, &key("alice", "read", "doc2")), None);
    let counts = cache.snapshot().counts;
    assert_eq!((counts.hits, counts.misses), (1, 2));
}

#[test]
fn an_entry_is_served_until_it_expires_and_no_longer() {
    let cache = cache(10);
    for ttl in [1, 20, 50].map(Duration::from_millis) {
        let alice = key("alice", "read", &format!("{ttl:?}"));
        let before = Instant::now();
        wait(cache.insert(alice.clone(), vec![1], ttl, Tags::default(), cache.stamp())).unwrap();
        let after = Instant::now();
        loop {
            let asked = Instant::now();
            let served = get(&cache, &alice).is_some();
            let answered = Instant::now();
            if served {
                assert!(asked < after + ttl, "served {:?} too late", asked - (after + ttl));
            } else {
                assert!(answered >= before + ttl, "expired too early");
                break;
            }
        }
    }
}

#[test]
fn a_decision_that_cannot_be_stored_removes_the_older_one() {
    let cache = cache(10);
    let alice = key("alice", "read", "doc");
    put(&cache, alice.clone(), b"old").unwrap();
    let refused =
        wait(cache.insert(alice.clone(), vec![], Duration::ZERO, Tags::default(), cache.stamp()));
    assert_eq!(refused, Err(InsertError::NoTimeToLive));
    assert_eq!(get(&cache, &alice), None);
}

#[test]
fn the_least_recently_used_entry_is_evicted_first() {
    for capacity in [1, 2, 3, 100] {
        let cache = cache(u64::from(capacity));
        // A simple model: the least recently used entry first.
        let mut model: Vec<u32> = Vec::new();
        let mut random = 12345_u32;
        for step in 0..5_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = (random >> 8) % (capacity * 2 + 1);
            let name = key(&number.to_string(), "", "");
            let known = model.iter().position(|n| *n == number);
            if step % 3 == 0 {
                put(&cache, name, b"").unwrap();
                known.map(|at| model.remove(at));
                model.push(number);
                if model.len() > capacity as usize {
                    model.remove(0);
                }
            } else {
                assert_eq!(get(&cache, &name).is_some(), known.is_some(), "capacity {capacity}");
                if let Some(at) = known {
                    let used = model.remove(at);
                    model.push(used);
                }
            }
        }
    }
}

#[test]
fn every_entry_is_found_while_the_index_grows() {
    let cache = cache(200_000);
    let name = |user: usize| key(&user.to_string(), "read", "doc");
    for user in 0..40_000 {
        put(&cache, name(user), b"old").unwrap();
        assert!(get(&cache, &name(user / 2)).is_some());
    }
    for user in 0..40_000 {
        put(&cache, name(user), b"new").unwrap();
        assert_eq!(get(&cache, &name(user)).unwrap(), b"new");
    }
    for user in 0..40_000 {
        assert_eq!(get(&cache, &name(user)).unwrap(), b"new");
        assert!(wait(cache.remove(name(user).as_bytes())));
        assert_eq!(get(&cache, &name(user)), None);
    }
}

#[test]
fn a_full_cache_keeps_its_capacity_and_counts_evictions() {
    for eviction in [Eviction::Lru, Eviction::TinyLfu] {
        let cache = sized(Options { eviction, ..Options::new(10_000) });
        for i in 0..10_000 {
            put(&cache, key(&i.to_string(), "", ""), b"").unwrap();
        }
        assert_eq!(wait(cache.count_live()), 10_000);
        for i in 10_000..40_000 {
            put(&cache, key(&i.to_string(), "", ""), b"").unwrap();
        }
        assert_eq!(wait(cache.count_live()), 10_000);
        assert_eq!(cache.snapshot().counts.evictions, 30_000);
    }
}

#[test]
fn bytes_are_bounded() {
    let max_bytes = 100_000;
    let options = Options { max_bytes: Some(max_bytes), ..Options::new(1_000) };
    let cache = sized(options);
    let mut bytes = 0;
    for i in 0..2_000 {
        let (name, value) = (key(&format!("{i:04}"), "", ""), vec![0; 600]);
        bytes = name.as_bytes().len() + value.len() + ENTRY_OVERHEAD;
        wait(cache.insert(name, value, MINUTE, Tags::default(), cache.stamp())).unwrap();
    }
    let live = wait(cache.count_live());
    assert_eq!(live, max_bytes / bytes as u64);
}

#[test]
fn small_entries_are_bounded_by_their_number() {
    let options = Options { max_bytes: Some(1 << 30), ..Options::new(100) };
    let cache = sized(options);
    for i in 0..1_000 {
        put(&cache, key(&i.to_string(), "", ""), b"").unwrap();
    }
    assert_eq!(wait(cache.count_live()), 100);
}

#[test]
fn an_entry_that_is_too_large_is_refused() {
    let cache = cache(10);
    let alice = key("alice", "read", "doc");
    let fits = MAX_ENTRY_BYTES - alice.as_bytes().len();
    assert_eq!(put(&cache, alice.clone(), &vec![0; fits]), Ok(()));
    assert_eq!(get(&cache, &alice).map(|value| value.len()), Some(fits));
    let refused = InsertError::TooLarge { bytes: MAX_ENTRY_BYTES + 1, limit: MAX_ENTRY_BYTES };
    assert_eq!(put(&cache, alice.clone(), &vec![0; fits + 1]), Err(refused));
    assert_eq!(get(&cache, &alice), None, "the older entry is superseded");

    let options = Options { max_bytes: Some(2_000), ..Options::new(10) };
    let small = sized(options);
    assert!(matches!(put(&small, alice, &[0; 1_700]), Err(InsertError::TooLarge { .. })));
}

#[test]
fn tags_count_as_bytes_and_too_many_of_them_are_refused() {
    let most: Vec<String> = (0..MAX_TAGS).map(|tag| tag.to_string()).collect();
    let cache = sized(Options { max_bytes: Some(20_000), ..Options::new(1_000) });
    let insert = |user: &str, tags: Tags, size: usize| {
        let value = vec![0; size];
        wait(cache.insert(key(user, "read", "doc"), value, MINUTE, tags, cache.stamp()))
    };
    let all = cache.log().tags(&most);
    for user in 0..100 {
        assert_eq!(insert(&user.to_string(), all.clone(), 0), Ok(()));
    }
    // Without their tags, 36 entries would fit.
    assert!((15..=20).contains(&cache.entry_count()), "{}", cache.entry_count());

    let one_more = all.union(&cache.log().tags(&["one more"]));
    assert_eq!(one_more.len(), MAX_TAGS + 1);
    assert_eq!(insert("1", one_more, 0), Err(InsertError::TooManyTags));
    assert_eq!(get(&cache, &key("1", "read", "doc")), None);
    assert!(matches!(insert("1", all, 19_400), Err(InsertError::TooLarge { .. })));
    assert_eq!(insert("1", Tags::default(), 19_400), Ok(()));
    assert!(get(&cache, &key("1", "read", "doc")).is_some());
}

#[test]
fn only_a_full_log_counts_as_a_flush() {
    let cache = cache(10);
    let flushes = || cache.snapshot().counts.flushes;
    for i in 0..=MAX_GLOBS {
        assert_eq!(flushes(), 0);
        drop(cache.invalidate(Scope::Glob(Glob::new(&format!("*{i}")).unwrap())));
    }
    assert_eq!(flushes(), 1);
    drop(cache.invalidate(Scope::Everything));
    drop(cache.invalidate(Scope::of([Some("alice"), None, None], &[])));
    assert_eq!(flushes(), 1);
}

#[test]
fn an_extreme_pair_of_limits_still_stores() {
    for (max_size, max_bytes) in
        [(u64::MAX, 10_000), (1 << 40, 1 << 50), (1, u64::MAX), (1 << 40, 4_096)]
    {
        let cache = sized(Options { max_bytes: Some(max_bytes), ..Options::new(max_size) });
        put(&cache, key("alice", "read", "doc"), &[0; 100]).unwrap();
        assert_eq!(wait(cache.count_live()), 1, "{max_size} entries, {max_bytes} bytes");
    }
}

#[test]
fn an_invalidation_takes_effect_before_its_future_is_polled() {
    let cache = cache(10);
    let alice = key("alice", "read", "doc");
    put(&cache, alice.clone(), b"allow").unwrap();
    let count = cache.invalidate(Scope::of([Some("alice"), None, None], &[]));
    assert_eq!(get(&cache, &alice), None);
    assert_eq!(wait(count), 1);
    assert_eq!(cache.entry_count(), 0);
}

#[test]
fn an_invalidation_counts_exactly_the_entries_it_removed() {
    let cache = cache(10_000);
    for i in 0..3_000 {
        put(&cache, key(["alice", "bob", "carol"][i % 3], "read", &i.to_string()), b"").unwrap();
    }
    wait(cache.insert(
        key("alice", "x", "y"),
        vec![],
        Duration::from_nanos(1),
        Tags::default(),
        cache.stamp(),
    ))
    .unwrap();
    assert_eq!(wait(cache.invalidate(Scope::of([Some("alice"), Some("read"), None], &[]))), 1_000);
    assert_eq!(wait(cache.invalidate(Scope::of([Some("alice"), None, None], &[]))), 0);
    assert_eq!(wait(cache.invalidate(Scope::of([None, None, Some("1")], &[]))), 1);
    assert_eq!(wait(cache.invalidate(Scope::Everything)), 1_999);
    assert_eq!((wait(cache.count_live()), cache.entry_count()), (0, 0));
    let counts = cache.snapshot().counts;
    assert_eq!((counts.invalidations, counts.expirations), (3_000, 1));
}

#[test]
fn a_decision_revoked_during_its_evaluation_is_refused() {
    let cache = cache(10);
    let alice = key("alice", "read", "doc");
    let stamp = cache.stamp();
    wait(cache.invalidate(Scope::of([Some("alice"), None, None], &[])));
    let insert =
        |name: &Key| wait(cache.insert(name.clone(), vec![], MINUTE, Tags::default(), stamp));
    assert_eq!(insert(&alice), Err(InsertError::Invalidated));
    assert_eq!(insert(&key("bob", "read", "doc")), Ok(()));
    assert_eq!(get(&cache, &alice), None);
    assert_eq!(put(&cache, alice.clone(), b"new"), Ok(()));
    assert_eq!(get(&cache, &alice), Some(b"new".to_vec()));
}

#[test]
fn a_refused_decision_removes_the_older_one_and_keeps_a_newer_one() {
    let cache = cache(10);
    let alice = key("alice", "read", "doc");
    let group = cache.log().tags(&["group"]);
    put(&cache, alice.clone(), b"allow").unwrap();
    let stamp = cache.stamp();
    let insert = |tags| wait(cache.insert(alice.clone(), b"deny".to_vec(), MINUTE, tags, stamp));
    wait(cache.invalidate(Scope::of([None, None, None], &["group"])));
    assert_eq!(insert(group), Err(InsertError::Invalidated));
    assert_eq!(get(&cache, &alice), None);
    wait(cache.invalidate(Scope::of([Some("alice"), None, None], &[])));
    put(&cache, alice.clone(), b"newer").unwrap();
    assert_eq!(insert(Tags::default()), Err(InsertError::Invalidated));
    assert_eq!(get(&cache, &alice), Some(b"newer".to_vec()));
}

#[test]
fn removing_an_entry_also_revokes_a_running_evaluation() {
    let cache = cache(10);
    let alice = key("alice", "read", "doc");
    put(&cache, alice.clone(), b"allow").unwrap();
    let stamp = cache.stamp();
    assert!(wait(cache.remove(alice.as_bytes())));
    assert!(!wait(cache.remove(alice.as_bytes())));
    let late = wait(cache.insert(alice.clone(), b"allow".to_vec(), MINUTE, Tags::default(), stamp));
    assert_eq!(late, Err(InsertError::Invalidated));
    assert_eq!(get(&cache, &alice), None);
}

#[test]
fn removing_a_revoked_entry_returns_false() {
    let cache = cache(10);
    let alice = key("alice", "read", "doc");
    put(&cache, alice.clone(), b"allow").unwrap();
    let count = cache.invalidate(Scope::Everything);
    assert!(!wait(cache.remove(alice.as_bytes())));
    drop(count);
}

fn key_under(policy: &str, user: &str) -> Key {
    let mut writer = KeyWriter::new();
    writer.policy(policy).unwrap();
    writer.request(user, "read", "doc").unwrap();
    writer.to_key()
}

#[test]
fn a_request_is_removed_under_every_policy() {
    for policies in [2, 2_000] {
        let cache = cache(10_000);
        let alice = key("alice", "read", "doc");
        assert!(!wait(cache.remove_request(alice.as_bytes())));
        for policy in 0..policies {
            put(&cache, key_under(&policy.to_string(), "alice"), b"allow").unwrap();
            put(&cache, key_under(&policy.to_string(), "bob"), b"allow").unwrap();
        }
        let stamp = cache.stamp();
        assert!(wait(cache.remove_request(alice.as_bytes())));
        assert!(!wait(cache.remove_request(alice.as_bytes())));
        assert_eq!(wait(cache.count_live()), policies);
        assert_eq!(cache.entry_count(), policies);
        assert_eq!(cache.snapshot().counts.invalidations, policies);
        let late = cache.insert(key_under("1", "alice"), vec![], MINUTE, Tags::default(), stamp);
        assert_eq!(wait(late), Err(InsertError::Invalidated));
    }
}

#[test]
fn removing_under_one_policy_keeps_the_others() {
    let cache = cache(10);
    for policy in ["", "admins", "members"] {
        put(&cache, key_under(policy, "alice"), b"allow").unwrap();
    }
    assert!(wait(cache.remove(key_under("admins", "alice").as_bytes())));
    let is_served =
        ["", "admins", "members"].map(|it| get(&cache, &key_under(it, "alice")).is_some());
    assert_eq!(is_served, [true, false, true]);
    assert_eq!(wait(cache.invalidate(Scope::under(Some("members"), [None; 3], &[]))), 1);
    assert_eq!(wait(cache.invalidate(Scope::under(Some(""), [None; 3], &[]))), 1);
}

#[test]
fn an_invalidation_of_a_full_log_counts_every_entry() {
    let cache = cache(10);
    for user in ["alice", "bob"] {
        put(&cache, key(user, "read", "doc"), b"allow").unwrap();
    }
    for i in 0..MAX_RECORDS {
        drop(cache.invalidate(Scope::of([Some(&i.to_string()), None, None], &[])));
    }
    assert_eq!(wait(cache.count_live()), 2);
    assert_eq!(wait(cache.invalidate(Scope::of([Some("nobody"), None, None], &[]))), 2);
    assert_eq!((wait(cache.count_live()), cache.entry_count()), (0, 0));
}

#[test]
fn tags_revoke_the_decisions_that_carry_them() {
    let cache = cache(10);
    let insert = |user: &str, tags: &[&str]| {
        wait(cache.insert(
            key(user, "read", "doc"),
            vec![],
            MINUTE,
            cache.log().tags(tags),
            cache.stamp(),
        ))
        .unwrap();
    };
    insert("alice", &["role:admin", "bundle:1"]);
    insert("bob", &["role:user"]);
    insert("carol", &[]);
    assert_eq!(wait(cache.invalidate(Scope::of([Some("bob"), None, None], &["role:admin"]))), 0);
    assert_eq!(wait(cache.invalidate(Scope::of([None; 3], &["role:admin", "unknown"]))), 1);
    assert!(get(&cache, &key("alice", "read", "doc")).is_none());
    assert!(get(&cache, &key("bob", "read", "doc")).is_some());
    assert!(get(&cache, &key("carol", "read", "doc")).is_some());
}

#[test]
fn expired_entries_are_removed_and_counted_exactly() {
    let cache = cache(10_000);
    for i in 0..2_000_u32 {
        let ttl = if i % 2 == 0 { Duration::from_nanos(1) } else { MINUTE };
        wait(cache.insert(
            key(&i.to_string(), "", ""),
            vec![],
            ttl,
            Tags::default(),
            cache.stamp(),
        ))
        .unwrap();
    }
    assert_eq!(wait(cache.count_live()), 1_000);
    assert_eq!(cache.entry_count(), 2_000);
    assert_eq!(wait(cache.cleanup_expired()), 1_000);
    assert_eq!(wait(cache.cleanup_expired()), 0);
    assert_eq!(cache.entry_count(), 1_000);
    assert_eq!(cache.snapshot().counts.expirations, 1_000);
}

#[test]
fn many_threads_never_see_a_wrong_value_and_every_lookup_is_counted() {
    let cache = cache(500);
    let gets = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let (cache, gets) = (&cache, &gets);
            scope.spawn(move || {
                for i in 0..5_000_u32 {
                    let name = (i * 7 + thread) % 1_000;
                    let name_key = key(&name.to_string(), "", "");
                    match i % 10 {
                        0..3 => {
                            // Another thread may have removed the key and so revoked this value.
                            let stored = put(cache, name_key, &name.to_le_bytes());
                            assert!(matches!(stored, Ok(()) | Err(InsertError::Invalidated)));
                        }
                        9 => {
                            wait(cache.remove(name_key.as_bytes()));
                        }
                        _ => {
                            gets.fetch_add(1, Ordering::Relaxed);
                            if let Some(value) = get(cache, &name_key) {
                                assert_eq!(value, name.to_le_bytes());
                            }
                        }
                    }
                }
            });
        }
    });
    let counts = cache.snapshot().counts;
    assert_eq!(counts.hits + counts.misses, gets.load(Ordering::Relaxed));
    assert!(wait(cache.count_live()) <= 500);
}

#[test]
fn latency_is_sampled_and_percentiles_are_within_the_promised_error() {
    let cache = cache(10);
    assert_eq!(cache.snapshot().requests.count, 0);
    for nanoseconds in 1..=10_000 {
        cache.stats().requests.record(Duration::from_nanos(nanoseconds));
    }
    let latencies = cache.snapshot().requests;
    for (percentile, exact) in
        [(latencies.p50, 5_000.0), (latencies.p95, 9_500.0), (latencies.p99, 9_900.0)]
    {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let error = (percentile as f64 - exact).abs() / exact;
        assert!(error < 0.032, "{percentile} for {exact}");
    }
    assert!((latencies.mean() - 5_000.5).abs() < 1e-9);
    cache.reset_stats();
    assert_eq!(cache.snapshot().requests, Latencies::default());
}

#[test]
fn pending_invalidations_share_a_sweep_and_are_counted_separately() {
    const USERS: usize = 600;
    let cache = cache(10_000);
    for user in 0..USERS {
        for resource in ["a", "b"] {
            put(&cache, key(&user.to_string(), "read", resource), b"").unwrap();
        }
    }
    let user = |user: usize| Scope::of([Some(&user.to_string()), None, None], &[]);
    let mut first = pin!(cache.invalidate(user(0)));
    let mut waiting: Vec<_> = (0..USERS).map(|i| Box::pin(cache.invalidate(user(i)))).collect();
    let mut everything = Box::pin(cache.invalidate(Scope::of([None; 3], &[])));
    put(&cache, key("new", "read", "a"), b"").unwrap();

    let mut context = Context::from_waker(Waker::noop());
    let mut poll = |future: Pin<&mut dyn Future<Output = u64>>| future.poll(&mut context);
    assert!(poll(first.as_mut()).is_pending(), "it sweeps and yields");
    for future in &mut waiting {
        assert!(poll(future.as_mut()).is_pending(), "they wait for the running sweep");
    }
    assert!(poll(everything.as_mut()).is_pending());
    let removed = loop {
        if let Poll::Ready(removed) = poll(first.as_mut()) {
            break removed;
        }
    };
    assert_eq!(removed, 2);
    let second = loop {
        if let Poll::Ready(removed) = poll(waiting[0].as_mut()) {
            break removed;
        }
    };
    assert_eq!(second, 0, "the first sweep removed them");
    for future in &mut waiting[1..] {
        assert_eq!(poll(future.as_mut()), Poll::Ready(2), "swept together with the second");
    }
    assert_eq!(poll(everything.as_mut()), Poll::Ready(0), "the others removed all entries");
    assert_eq!(wait(cache.count_live()), 1);
}

#[test]
fn the_next_sweep_does_the_work_of_a_cancelled_one() {
    let cache = cache(10_000);
    for user in 0..2_000 {
        put(&cache, key(&user.to_string(), "read", "a"), b"").unwrap();
    }
    let mut context = Context::from_waker(Waker::noop());
    let mut cancelled = Box::pin(cache.invalidate(Scope::of([None, Some("read"), None], &[])));
    assert!(cancelled.as_mut().poll(&mut context).is_pending());
    let mut next = Box::pin(cache.invalidate(Scope::of([None, None, Some("a")], &[])));
    assert!(next.as_mut().poll(&mut context).is_pending());
    drop(cancelled);
    assert_eq!(wait(next), 0, "the first invalidation revoked them");
    assert_eq!(cache.entry_count(), 0);
}

fn leased() -> (TestCache, Lease) {
    let lease = Lease::none();
    (sized(Options { lease: lease.clone(), ..Options::new(1_000) }), lease)
}

fn get_batch(cache: &TestCache, key: &Key) -> bool {
    let mut batch = cache.batch_lookup(1);
    batch.look_up(key.as_bytes());
    batch.finish()[0].is_some()
}

#[test]
fn nothing_is_served_without_a_lease_and_what_was_stored_is_served_under_the_next_one() {
    let (cache, lease) = leased();
    let alice = key("alice", "read", "doc");
    put(&cache, alice.clone(), b"allow").unwrap();
    assert_eq!(get(&cache, &alice), None);
    assert!(!get_batch(&cache, &alice));
    lease.extend(cache.lease().now(), MINUTE);
    assert_eq!(get(&cache, &alice), Some(b"allow".to_vec()));
    assert!(get_batch(&cache, &alice));
    lease.end();
    // A decision that is set without a lease takes the place of the older one.
    put(&cache, alice.clone(), b"deny").unwrap();
    assert_eq!(get(&cache, &alice), None);
    lease.extend(lease.now(), MINUTE);
    assert_eq!(get(&cache, &alice), Some(b"deny".to_vec()));
    assert_eq!(get(&cache, &key("bob", "read", "doc")), None);
    let snapshot = cache.snapshot();
    assert_eq!((snapshot.counts.hits, snapshot.counts.misses), (3, 1));
    assert_eq!(snapshot.coherence.lapsed, 3);
}

#[test]
fn an_entry_is_served_until_the_lease_ends_and_no_longer() {
    let (cache, lease) = leased();
    let alice = key("alice", "read", "doc");
    put(&cache, alice.clone(), b"allow").unwrap();
    for length in [1, 20].map(Duration::from_millis) {
        let (sent, mut served_once) = (lease.now(), false);
        lease.extend(sent, length);
        loop {
            let asked = lease.now();
            let served = get(&cache, &alice).is_some();
            let answered = lease.now();
            served_once |= served;
            if served {
                assert!(asked < lease.until(), "served after the lease ended");
            } else {
                assert!(answered >= lease.until(), "the lease ended early");
                break;
            }
        }
        assert!(served_once || length < Duration::from_millis(20));
    }
}

#[test]
fn a_batch_that_outlasts_the_lease_serves_nothing() {
    let (cache, lease) = leased();
    let alice = key("alice", "read", "doc");
    put(&cache, alice.clone(), b"allow").unwrap();
    lease.extend(lease.now(), Duration::from_millis(5));
    let mut batch = cache.batch_lookup(1);
    batch.look_up(alice.as_bytes());
    while lease.is_valid() {
        std::thread::yield_now();
    }
    // A lease that is granted during the batch does not count: the log was asked before it.
    lease.extend(lease.now(), MINUTE);
    assert!(batch.finish()[0].is_none());
}

#[test]
fn a_foreign_revocation_and_a_flush_take_effect_without_a_visit_to_the_entries() {
    let cache = cache(10_000);
    for i in 0..5_000 {
        put(&cache, key(&i.to_string(), "read", "doc"), b"allow").unwrap();
    }
    let stamp = cache.stamp();
    assert!(cache.note_foreign(&Scope::of([Some("7"), None, None], &[])) > stamp);
    assert_eq!(get(&cache, &key("7", "read", "doc")), None);
    assert!(get(&cache, &key("8", "read", "doc")).is_some());
    // A decision whose evaluation began before the foreign revocation is not stored.
    let late = cache.insert(key("7", "read", "doc"), vec![], MINUTE, Tags::default(), stamp);
    assert_eq!(wait(late), Err(InsertError::Invalidated));
    assert_eq!(cache.entry_count(), 5_000);

    let stamp = cache.flush();
    assert_eq!(stamp, cache.stamp());
    assert_eq!(get(&cache, &key("8", "read", "doc")), None);
    assert_eq!(cache.entry_count(), 5_000);
    assert!(cache.log().is_empty());
    put(&cache, key("8", "read", "doc"), b"allow").unwrap();
    assert!(get(&cache, &key("8", "read", "doc")).is_some());
    let snapshot = cache.snapshot();
    assert_eq!((snapshot.counts.flushes, snapshot.coherence.foreign_revocations), (1, 1));
}
