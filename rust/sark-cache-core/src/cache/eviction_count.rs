//! Counting evictions without moka's eviction listener.
//!
//! With a listener every insert takes a lock per key, and a lookup can wait for it. So the counter
//! compares the number of entries with the numbers added and removed.

use crate::metrics::Counter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The numbers of entries added and removed. The entries that are missing were evicted.
///
/// Operations that run in other threads make the number of evictions too small, never too large, so
/// it only grows. It is exact when no operation runs.
#[derive(Debug, Default)]
pub(crate) struct EvictionCounter {
    pub(crate) added: Counter,
    pub(crate) removed: AtomicU64,
    evicted: Mutex<u64>,
}

impl EvictionCounter {
    /// Adds the new evictions to `evictions`. `held` is the number of entries that are left of the
    /// `added` ones.
    ///
    /// The caller reads `added` before it counts the entries that are left.
    pub(crate) fn update(&self, added: u64, held: u64, evictions: &Counter) {
        let mut evicted = self.evicted.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = added.saturating_sub(held + self.removed.load(Ordering::SeqCst));
        evictions.add(missing.saturating_sub(*evicted));
        *evicted = missing.max(*evicted);
    }
}
