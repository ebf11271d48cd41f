//! How long requests took: a mean, percentiles and a distribution, each of one moment.
//!
//! 32 buckets per power of two of nanoseconds, so a percentile is at most 3.2 % off; they take 8 KiB.
//! A mutex makes buckets, count and sum agree. It is held for some nanoseconds to record, which one
//! request in 64 does, and for less than a microsecond to take a copy, which is what is read.

use crate::clock::nanos;
use histogram::{Bucket, Histogram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const GROUPING_POWER: u8 = 5;
/// 2³⁶ ns = 69 s; anything slower counts as that.
const MAX_VALUE_POWER: u8 = 36;

/// Durations, as a mean, as percentiles and as a distribution.
#[derive(Debug, Default)]
pub struct Latency(Mutex<Samples>);

#[derive(Debug, Clone)]
struct Samples {
    buckets: Histogram,
    count: u64,
    /// In nanoseconds.
    sum: u64,
}

/// Durations at one moment, in nanoseconds. All zero when nothing was samples.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latencies {
    /// How many durations were samples.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// Half of them took no longer.
    pub p50: u64,
    /// 95 % of them took no longer.
    pub p95: u64,
    /// 99 % of them took no longer.
    pub p99: u64,
}

impl Latencies {
    /// The mean, in nanoseconds.
    #[expect(clippy::cast_precision_loss, reason = "a mean does not need 53 bits")]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }
}

/// How many durations were below each of some bounds, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// For each bound, how many were below it.
    pub below: Vec<u64>,
    /// How many there were.
    pub count: u64,
    /// Their sum, in nanoseconds.
    pub sum: u64,
}

impl Default for Samples {
    fn default() -> Self {
        let buckets = Histogram::new(GROUPING_POWER, MAX_VALUE_POWER)
            .expect("the powers are constants within the library's bounds");
        Self { buckets, count: 0, sum: 0 }
    }
}

impl Latency {
    /// Records one duration.
    pub fn record(&self, duration: Duration) {
        self.record_many(1, duration);
    }

    /// Records the same duration `count` times.
    pub(crate) fn record_many(&self, count: u64, duration: Duration) {
        let duration = nanos(duration).min((1 << MAX_VALUE_POWER) - 1);
        let mut samples = self.lock();
        samples.count += count;
        samples.sum += count * duration;
        let added = samples.buckets.add(duration, count);
        debug_assert!(added.is_ok(), "the duration is below the greatest value");
    }

    /// How many durations were below each of `bounds`, nanoseconds that rise.
    ///
    /// A bucket counts as below a bound when all of it is. Powers of two lie between buckets; another
    /// bound may have up to 3.2 % of itself counted as above it.
    pub fn distribution(&self, bounds: &[u64]) -> Distribution {
        let Samples { buckets, count, sum } = self.lock().clone();
        let mut buckets = buckets.iter().peekable();
        let mut passed = 0;
        let below = bounds.iter().map(|bound| {
            while let Some(bucket) = buckets.next_if(|bucket| bucket.end() < *bound) {
                passed += bucket.count();
            }
            passed
        });
        Distribution { below: below.collect(), count, sum }
    }

    pub(crate) fn latencies(&self) -> Latencies {
        let Samples { buckets, count, sum } = self.lock().clone();
        let percentile = |of| {
            let found = buckets.quantile(of).ok().flatten();
            found.and_then(|found| found.entries().values().next().map(Bucket::end)).unwrap_or(0)
        };
        Latencies {
            count,
            sum,
            p50: percentile(0.50),
            p95: percentile(0.95),
            p99: percentile(0.99),
        }
    }

    pub(crate) fn reset(&self) {
        *self.lock() = Samples::default();
    }

    fn lock(&self) -> MutexGuard<'_, Samples> {
        // Nothing that runs under the lock panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
