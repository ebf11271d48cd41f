//! Metrics: counters, and the latency of a sample of requests.
//!
//! # Cost
//! A counter costs one relaxed atomic addition: about 5 ns while no other core writes it. One request
//! in [`SAMPLE_EVERY`] is timed. That costs two clock readings and one [`Latency::record`].

mod counters;
mod latency;

pub use counters::{CoherenceCounters, CoherenceCounts, Counter, Counters, Counts};
pub use latency::{Distribution, Latencies, Latency};

use std::time::{Duration, Instant};

/// The interval of the sample: one request in this many is timed, the first one included.
pub const SAMPLE_EVERY: u64 = 64;

/// The metrics of one cache.
#[derive(Debug, Default)]
pub struct Stats {
    /// The counters.
    pub counters: Counters,
    /// The counters of a cache that shares its invalidation log with other processes.
    pub coherence: CoherenceCounters,
    /// The latency of requests to the cache, from a sample.
    pub requests: Latency,
    /// The latency of evaluations. The cache does not measure it; the code that evaluates records it.
    pub evaluations: Latency,
}

/// The values of [`Stats`] at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// The counters.
    pub counts: Counts,
    /// The counters of a cache that shares its invalidation log with other processes.
    pub coherence: CoherenceCounts,
    /// The latency of requests to the cache, from a sample.
    pub requests: Latencies,
    /// The latency of evaluations.
    pub evaluations: Latencies,
}

impl Stats {
    /// Starts to time a request if it belongs to the sample. Pass the result to [`stop`](Self::stop).
    ///
    /// Costs three atomic loads, and a clock reading for one request in [`SAMPLE_EVERY`].
    #[inline]
    pub fn start(&self) -> Option<Instant> {
        self.lookups().is_multiple_of(SAMPLE_EVERY).then(Instant::now)
    }

    /// Records a request that [`start`](Self::start) timed.
    #[inline]
    pub fn stop(&self, started: Option<Instant>) {
        if let Some(started) = started {
            self.record_sample(started);
        }
    }

    /// Not inlined: keeps the code of the common path small.
    #[cold]
    fn record_sample(&self, started: Instant) {
        self.requests.record(started.elapsed());
    }

    /// Records a batch of `requests` that took `duration` together and that are already counted.
    ///
    /// The requests of the batch that belong to the sample are recorded with an equal share each.
    pub fn record_batch(&self, requests: usize, duration: Duration) {
        let Ok(divisor @ 1..) = u32::try_from(requests) else { return };
        let counted = self.lookups();
        let before = counted.saturating_sub(u64::from(divisor));
        let sampled = counted.div_ceil(SAMPLE_EVERY) - before.div_ceil(SAMPLE_EVERY);
        self.requests.record_many(sampled, duration / divisor);
    }

    #[inline]
    fn lookups(&self) -> u64 {
        let Counters { hits, stale_hits, misses, .. } = &self.counters;
        hits.get() + stale_hits.get() + misses.get()
    }

    /// Copies all values. Each is exact; together they may be a few operations apart.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            counts: self.counters.counts(),
            coherence: self.coherence.counts(),
            requests: self.requests.latencies(),
            evaluations: self.evaluations.latencies(),
        }
    }

    /// Sets all values to zero.
    pub(crate) fn reset(&self) {
        self.counters.reset();
        self.coherence.reset();
        self.requests.reset();
        self.evaluations.reset();
    }
}
