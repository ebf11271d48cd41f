//! The counters of a cache, one line per counter.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// The counters of a cache. They only grow, until
        /// [`Cache::reset_stats`](crate::Cache::reset_stats).
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])* pub $name: Counter),* }

        /// The values of [`Counters`] at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[doc = $doc])* pub $name: u64),* }

        impl Counters {
            pub(super) fn counts(&self) -> Counts { Counts { $($name: self.$name.get()),* } }
            pub(super) fn reset(&self) { $(self.$name.0.store(0, Ordering::Relaxed);)* }
        }

        impl Counts {
            /// Iterates over names and values, in the order of declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Lookups answered from the cache, without the stale hits.
    hits,
    /// Lookups that found no entry, an expired one, or a revoked one.
    misses,
    /// Hits on entries near their expiration, for which a refresh starts or is running.
    stale_hits,
    /// Refreshes started in the background.
    revalidations,
    /// Batches of lookups or inserts.
    batch_operations,
    /// Entries removed because the cache was full.
    evictions,
    /// Entries removed because they had expired.
    expirations,
    /// Entries removed because they were revoked, and decisions that were not stored because they were
    /// revoked while they were being evaluated.
    invalidations,
    /// Invalidations that revoked everything because the log was full.
    flushes,
    /// Loaders that were run.
    loads,
    /// Loaders that failed.
    load_errors,
    /// Requests answered by a load that another request had started.
    coalesced,
    /// Requests that waited too long for another request's load and evaluated for themselves.
    overdue,
    /// Requests that failed because of bad input or a failure of the backend.
    errors,
}

/// A number that only grows. Each method costs one relaxed atomic operation.
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

    /// Sets the number to zero and returns its previous value.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// Returns the number.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
