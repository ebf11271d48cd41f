//! A distribution of durations is exact at powers of two, and all of it is of one moment.

use sark_cache_core::metrics::{Distribution, Latency};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

#[test]
fn a_distribution_is_exact_at_powers_of_two_and_close_elsewhere() {
    let latency = Latency::default();
    for nanoseconds in 0..10_000 {
        latency.record(Duration::from_nanos(nanoseconds));
    }
    let powers: Vec<u64> = (0..20).map(|power| 1 << power).collect();
    let Distribution { below, count, sum } = latency.distribution(&powers);
    let exact: Vec<u64> = powers.iter().map(|power| *power.min(&10_000)).collect();
    assert_eq!((below, count, sum), (exact, 10_000, 9_999 * 10_000 / 2));

    let any: Vec<u64> = (1..9_999).collect();
    for (bound, below) in any.iter().zip(latency.distribution(&any).below) {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let error = (*bound as f64 - below as f64) / *bound as f64;
        assert!((0.0..0.032).contains(&error), "{below} below {bound}");
    }
}

#[test]
fn the_longest_duration_is_below_the_largest_bound() {
    let latency = Latency::default();
    latency.record(Duration::MAX);
    assert_eq!(latency.distribution(&[1 << 30]).below, [0]);
    assert_eq!(latency.distribution(&[1 << 36, u64::MAX]).below, [1, 1], "it counts as 69 s");
}

#[test]
fn all_numbers_of_a_distribution_are_of_one_moment() {
    let latency = Latency::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    latency.record(Duration::from_micros(1));
                }
            });
        }
        let mut last = 0;
        for _ in 0..1_000 {
            let Distribution { below, count, sum } = latency.distribution(&[512, 1_024, 2_048]);
            assert_eq!((below, sum), (vec![0, count, count], 1_000 * count));
            assert!(count >= last);
            last = count;
        }
        done.store(true, Ordering::Relaxed);
    });
}
