//! Counters, and how long a sample of requests took; counting takes no lock.
//!
//! A counter costs one relaxed atomic addition (about 5 ns when no other core writes it). One
//! request in [`SAMPLE_EVERY`] is timed, which costs two clock readings and what it costs to
//! [record](Latency) them.

mod counters;
mod latency;

pub use counters::{Counter, Counters, Counts};
pub use latency::{Distribution, Latencies, Latency};

use std::time::{Duration, Instant};

/// One request in this many is timed, the first one included.
pub const SAMPLE_EVERY: u64 = 64;

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
            self.record_sample(started);
        }
    }

    /// Apart, so that it takes no room in what all the others run.
    #[cold]
    fn record_sample(&self, started: Instant) {
        self.requests.record(started.elapsed());
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
