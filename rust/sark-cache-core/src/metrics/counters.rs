//! The counters of a cache, one line per counter.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    (
        $(#[doc = $doc_of_counters:literal])* $counters:ident,
        $(#[doc = $doc_of_counts:literal])* $counts:ident:
        $($(#[doc = $doc:literal])* $name:ident),* $(,)?
    ) => {
        $(#[doc = $doc_of_counters])*
        #[derive(Debug, Default)]
        pub struct $counters { $($(#[doc = $doc])* pub $name: Counter),* }

        $(#[doc = $doc_of_counts])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $counts { $($(#[doc = $doc])* pub $name: u64),* }

        impl $counters {
            pub(super) fn counts(&self) -> $counts { $counts { $($name: self.$name.get()),* } }
            pub(super) fn reset(&self) { $(self.$name.0.store(0, Ordering::Relaxed);)* }
        }

        impl $counts {
            /// Iterates over names and values, in the order of declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// The counters of a cache. They only grow, until
    /// [`Cache::reset_stats`](crate::Cache::reset_stats).
    Counters,
    /// The values of [`Counters`] at one moment.
    Counts:
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
    /// Invalidations that revoked everything because the log was full, and calls of
    /// [`Cache::flush`](crate::Cache::flush).
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

counters! {
    /// The counters of a cache that shares its invalidation log with other processes.
    CoherenceCounters,
    /// The values of [`CoherenceCounters`] at one moment.
    CoherenceCounts:
    /// Lookups made without a valid lease. They are not counted as misses.
    lapsed,
    /// Revocations of other processes.
    foreign_revocations,
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
