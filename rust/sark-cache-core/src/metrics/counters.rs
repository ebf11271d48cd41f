//! What a cache counts: one line a counter.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// What happened so far. All counters only grow, until [`Cache::reset_stats`](crate::Cache::reset_stats).
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])* pub $name: Counter),* }

        /// The counters at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[doc = $doc])* pub $name: u64),* }

        impl Counters {
            pub(super) fn counts(&self) -> Counts { Counts { $($name: self.$name.get()),* } }
            pub(super) fn reset(&self) { $(self.$name.0.store(0, Ordering::Relaxed);)* }
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
    /// Invalidations that revoked everything because the log had no room for their scope.
    flushes,
    /// Loaders run.
    loads,
    /// Loaders that failed.
    load_errors,
    /// Requests answered by a load that another request had begun.
    coalesced,
    /// Requests that waited too long for another's load, and evaluated for themselves.
    overdue,
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

    /// Sets the number to zero; returns what it was.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// The number now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
