//! The cost of a hit, a miss, an insert, a load and an invalidation: `cargo bench -p sark-cache-core`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sark_cache_core::single_flight::Joined;
use sark_cache_core::{Cache, Flights, Key, KeyWriter, Options, Scope, Tags, poll_once};
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const ENTRIES: usize = 100_000;
const USERS: usize = 1_000;
const HOUR: Duration = Duration::from_secs(3_600);
const DECISION: &str = r#"{"allow": true, "reason": "the user owns the document"}"#;

type BenchCache = Arc<Cache<&'static str>>;

fn key(number: usize) -> Key {
    let mut writer = KeyWriter::new();
    writer
        .request(&format!("user-{}", number % USERS), "read", &format!("document-{number}"))
        .expect("the request is short enough");
    writer.to_key()
}

/// Returns keys in a random order, so that the processor's cache does not know the next one.
fn shuffled(count: usize) -> Vec<Key> {
    let mut random = 12_345_usize;
    let mut keys: Vec<Key> = (0..count).map(key).collect();
    for at in (1..count).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        keys.swap(at, (random >> 33) % (at + 1));
    }
    keys
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

fn insert(cache: &BenchCache, key: Key) {
    let insert = cache.insert(key, DECISION, HOUR, Tags::default(), cache.stamp());
    wait(insert).expect("the decision is stored");
}

fn full_cache() -> (BenchCache, Vec<Key>) {
    let cache = Arc::new(Cache::new(Options::new(2 * ENTRIES as u64)));
    let keys = shuffled(ENTRIES);
    for key in &keys {
        insert(&cache, key.clone());
    }
    (cache, keys)
}

fn get(cache: &BenchCache, key: &Key) -> bool {
    poll_once(cache.get(key.as_bytes())).expect("a lookup is ready at its first poll").is_some()
}

fn lookups(criterion: &mut Criterion) {
    let (cache, keys) = full_cache();
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(1));

    group.bench_function("hit, hot key", |bencher| {
        bencher.iter(|| assert!(get(&cache, black_box(&keys[0]))));
    });

    let mut next = keys.iter().cycle();
    group.bench_function("hit, random key", |bencher| {
        bencher.iter(|| assert!(get(&cache, next.next().expect("there are keys"))));
    });

    let unknown: Vec<Key> = (ENTRIES..2 * ENTRIES).map(key).collect();
    let mut next = unknown.iter().cycle();
    group.bench_function("miss", |bencher| {
        bencher.iter(|| assert!(!get(&cache, next.next().expect("there are keys"))));
    });

    // The first hit on an entry after an invalidation of another user checks it against the log.
    let mut next = keys.iter().cycle();
    group.bench_function("hit, after an invalidation", |bencher| {
        bencher.iter_batched(
            || drop(cache.invalidate(Scope::of([Some("nobody"), None, None], &[]))),
            |()| assert!(get(&cache, next.next().expect("there are keys"))),
            BatchSize::PerIteration,
        );
    });

    group.bench_function("batch of 100 hits", |bencher| {
        bencher.iter(|| {
            let mut batch = cache.batch_lookup(100);
            for key in &keys[..100] {
                batch.look_up(key.as_bytes());
            }
            batch.finish()
        });
    });
    group.finish();
}

fn inserts(criterion: &mut Criterion) {
    let (cache, keys) = full_cache();
    let mut group = criterion.benchmark_group("insert");

    let mut next = keys.iter().cycle();
    group.bench_function("over an entry", |bencher| {
        bencher.iter_batched(
            || next.next().expect("there are keys").clone(),
            |key| insert(&cache, key),
            BatchSize::SmallInput,
        );
    });

    let cache = Arc::new(Cache::new(Options::new(10_000)));
    let mut next = keys.iter().cycle();
    group.bench_function("into a full cache", |bencher| {
        bencher.iter_batched(
            || next.next().expect("there are keys").clone(),
            |key| insert(&cache, key),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn loads(criterion: &mut Criterion) {
    let cache: BenchCache = Arc::new(Cache::new(Options::new(10_000)));
    let flights = Arc::new(Flights::<&str, ()>::new(Arc::clone(cache.log()), Arc::default()));
    let (key, none) = (key(0), Tags::default());
    criterion.bench_function("load without waiters", |bencher| {
        bencher.iter(|| {
            let joined = flights.join(key.as_bytes(), &none, &(), |_| false, || None::<()>);
            let Joined::Lead(leader) = joined else { unreachable!("there is no other caller") };
            leader.finish(&DECISION, &none, |stamp, _| {
                black_box(stamp);
            });
        });
    });
}

fn invalidations(criterion: &mut Criterion) {
    let (cache, _) = full_cache();
    let alice = || Scope::of([Some("user-0"), None, None], &[]);
    let mut group = criterion.benchmark_group(format!("invalidation among {ENTRIES} entries"));

    group.bench_function("until it is in effect", |bencher| {
        bencher.iter(|| drop(cache.invalidate(alice())));
    });

    group.sample_size(10);
    let of_alice: Vec<Key> = (0..ENTRIES).step_by(USERS).map(key).collect();
    group.bench_function(format!("until {} entries are removed", of_alice.len()), |bencher| {
        bencher.iter_batched(
            || of_alice.iter().for_each(|key| insert(&cache, key.clone())),
            |()| assert_eq!(wait(cache.invalidate(alice())), of_alice.len() as u64),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, lookups, inserts, loads, invalidations);
criterion_main!(benches);
