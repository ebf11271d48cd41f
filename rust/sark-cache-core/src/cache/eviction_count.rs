//! Counting evictions without being told of them: a listener would make every insert take a lock
//! per key, and moka's expiry would be asked at every look-up.

use crate::metrics::Counter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many entries came and went: what moka evicted is what is missing.
///
/// Whatever is under way in other threads makes the number too small, never too large, so the
/// counter only grows; when nothing is under way it is exact.
#[derive(Debug, Default)]
pub(crate) struct EvictionCounter {
    pub(crate) added: Counter,
    pub(crate) removed: AtomicU64,
    evicted: Mutex<u64>,
    shards: [Mutex<()>; SHARDS],
}

/// How many inserts of different keys may look for their predecessors at once.
const SHARDS: usize = 16;

impl EvictionCounter {
    /// To be held from the look for a key's predecessor until it is replaced.
    pub(crate) fn lock_shard(&self, key: &[u8]) -> MutexGuard<'_, ()> {
        // Most keys differ in their last byte, and it need not be fair.
        let shard = usize::from(key.last().copied().unwrap_or_default()) % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves `evictions` on: `held` entries are left of those `added` before they were counted.
    pub(crate) fn update(&self, added: u64, held: u64, evictions: &Counter) {
        let mut evicted = self.evicted.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = added.saturating_sub(held + self.removed.load(Ordering::SeqCst));
        evictions.add(missing.saturating_sub(*evicted));
        *evicted = missing.max(*evicted);
    }
}
