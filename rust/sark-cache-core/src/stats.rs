//! Counters and a sampled latency histogram; recording takes no lock.
//!
//! A counter costs one relaxed atomic addition (about 5 ns when no other core writes it). One
//! request in [`SAMPLE_EVERY`] is timed, which costs two clock readings. The histogram has 32
//! buckets per power of two, so a percentile is at most 3.2 % off; it takes 8 KiB.

use crate::clock::nanos;
use histogram::{AtomicHistogram, Bucket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One request in this many is timed, the first one included.
pub const SAMPLE_EVERY: u64 = 64;

const GROUPING_POWER: u8 = 5;
/// 2³⁶ ns = 69 s; anything slower counts as that.
const MAX_VALUE_POWER: u8 = 36;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// What happened so far. All counters only grow, until [`Stats::reset`].
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])* pub $name: Counter),* }

        /// The counters at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[doc = $doc])* pub $name: u64),* }

        impl Counters {
            fn counts(&self) -> Counts { Counts { $($name: self.$name.get()),* } }
            fn reset(&self) { $(self.$name.0.store(0, Ordering::Relaxed);)* }
        }

        impl Counts {
            /// Names and values, in the order of declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Look-ups answered from the cache, but for the stale ones.
    hits,
    /// Look-ups that found nothing, something expired, or something revoked.
    misses,
    /// Hits in the last part of their time to live that are refreshed, or are being refreshed.
    stale_hits,
    /// Refreshes begun in the background.
    revalidations,
    /// Batches looked up or stored.
    batch_operations,
    /// Entries dropped because the cache was full.
    evictions,
    /// Entries dropped because their time to live was over.
    expirations,
    /// Entries dropped because they were revoked, and decisions refused because they were revoked
    /// while they were being evaluated.
    invalidations,
    /// Loaders run.
    loads,
    /// Loaders that failed.
    load_errors,
    /// Requests answered by a load that another request had begun.
    coalesced,
    /// Requests that could not be served or stored: bad input or a fault in the backend.
    errors,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `count`.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations, as a mean and as percentiles.
#[derive(Debug)]
pub struct Latency {
    buckets: AtomicHistogram,
    count: Counter,
    nanoseconds: Counter,
}

/// Durations at one moment, in nanoseconds. All zero when nothing was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latencies {
    /// How many durations were recorded.
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

impl Default for Latency {
    fn default() -> Self {
        let buckets = AtomicHistogram::new(GROUPING_POWER, MAX_VALUE_POWER)
            .expect("the powers are constants within the library's bounds");
        Self { buckets, count: Counter::default(), nanoseconds: Counter::default() }
    }
}

impl Latency {
    /// Records one duration.
    pub fn record(&self, duration: Duration) {
        self.record_many(1, duration);
    }

    /// Records the same duration `count` times.
    fn record_many(&self, count: u64, duration: Duration) {
        let duration = nanos(duration).min((1 << MAX_VALUE_POWER) - 1);
        self.count.add(count);
        self.nanoseconds.add(count * duration);
        let recorded = self.buckets.add(duration, count);
        debug_assert!(recorded.is_ok(), "the duration is below the greatest value");
    }

    fn latencies(&self) -> Latencies {
        let buckets = self.buckets.load();
        let percentile = |of| {
            let found = buckets.quantile(of).ok().flatten();
            found.and_then(|found| found.entries().values().next().map(Bucket::end)).unwrap_or(0)
        };
        Latencies {
            count: self.count.get(),
            sum: self.nanoseconds.get(),
            p50: percentile(0.50),
            p95: percentile(0.95),
            p99: percentile(0.99),
        }
    }

    fn reset(&self) {
        self.buckets.drain();
        self.count.0.store(0, Ordering::Relaxed);
        self.nanoseconds.0.store(0, Ordering::Relaxed);
    }
}

/// Everything one cache counts.
#[derive(Debug, Default)]
pub struct Stats {
    /// The counters.
    pub counters: Counters,
    /// How long requests to the cache took: a sample.
    pub requests: Latency,
    /// How long evaluations took, as told by those who ran them.
    pub evaluations: Latency,
}

/// [`Stats`] at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// The counters.
    pub counts: Counts,
    /// How long requests to the cache took: a sample.
    pub requests: Latencies,
    /// How long evaluations took.
    pub evaluations: Latencies,
}

impl Stats {
    /// Starts timing a request if it is one of the sample; hand the result to [`stop`](Self::stop).
    #[inline]
    pub fn start(&self) -> Option<Instant> {
        self.look_ups().is_multiple_of(SAMPLE_EVERY).then(Instant::now)
    }

    /// Records a request that [`start`](Self::start) chose to time.
    #[inline]
    pub fn stop(&self, started: Option<Instant>) {
        if let Some(started) = started {
            self.requests.record(started.elapsed());
        }
    }

    /// Records a batch of `requests`, already counted, that took `duration` together: those of them
    /// that belong to the sample, each with its share.
    pub fn record_batch(&self, requests: usize, duration: Duration) {
        let Ok(divisor @ 1..) = u32::try_from(requests) else { return };
        let counted = self.look_ups();
        let before = counted.saturating_sub(u64::from(divisor));
        let sampled = counted.div_ceil(SAMPLE_EVERY) - before.div_ceil(SAMPLE_EVERY);
        self.requests.record_many(sampled, duration / divisor);
    }

    #[inline]
    fn look_ups(&self) -> u64 {
        let Counters { hits, stale_hits, misses, .. } = &self.counters;
        hits.get() + stale_hits.get() + misses.get()
    }

    /// Everything as it is now. Each number is exact; together they may be a few operations apart.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            counts: self.counters.counts(),
            requests: self.requests.latencies(),
            evaluations: self.evaluations.latencies(),
        }
    }

    /// Sets everything to zero.
    pub(crate) fn reset(&self) {
        self.counters.reset();
        self.requests.reset();
        self.evaluations.reset();
    }
}
