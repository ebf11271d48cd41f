//! Latencies: a mean, percentiles and a distribution, all of the same moment.
//!
//! There are 32 buckets per power of two of nanoseconds, so a percentile is at most 3.2 % off. The
//! buckets take 8 KiB. A mutex keeps buckets, count and sum consistent. Recording holds it for some
//! nanoseconds; reading copies the buckets, which holds it for less than a microsecond.

use crate::clock::nanos;
use histogram::{Bucket, Histogram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const GROUPING_POWER: u8 = 5;
/// 2³⁶ ns = 69 s; a longer duration counts as that.
const MAX_VALUE_POWER: u8 = 36;

/// A histogram of durations, of 8 KiB.
#[derive(Debug, Default)]
pub struct Latency(Mutex<Samples>);

#[derive(Debug, Clone)]
struct Samples {
    buckets: Histogram,
    count: u64,
    /// In nanoseconds.
    sum: u64,
}

/// The statistics of durations at one moment, in nanoseconds. All zero if nothing was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latencies {
    /// The number of durations.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The median.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
}

impl Latencies {
    /// Returns the mean, in nanoseconds.
    #[expect(clippy::cast_precision_loss, reason = "a mean does not need 53 bits")]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }
}

/// The numbers of durations below given bounds, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The number of durations below each bound.
    pub below: Vec<u64>,
    /// The number of all durations.
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
    /// Records one duration. Takes one mutex, for some nanoseconds.
    pub fn record(&self, duration: Duration) {
        self.record_many(1, duration);
    }

    /// Records a duration `count` times.
    pub(crate) fn record_many(&self, count: u64, duration: Duration) {
        let duration = nanos(duration).min((1 << MAX_VALUE_POWER) - 1);
        let mut samples = self.lock();
        samples.count += count;
        samples.sum += count * duration;
        let added = samples.buckets.add(duration, count);
        debug_assert!(added.is_ok(), "the duration is below the greatest value");
    }

    /// Counts the durations below each of `bounds`, in nanoseconds and in rising order.
    ///
    /// The counts are exact for powers of two. For another bound, a duration that is shorter by up to
    /// 3.2 % may not be counted as below it.
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
        // No code under this lock panics half way through a change, so poisoning is ignored.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
