//! The ticks by which the order of use is known.
//!
//! moka orders entries by their recorded reads. To record every hit would cost more than the hit. So
//! an entry is recorded at its first hit in each tick. A tick is as many inserts as a 64th of the
//! entries: only inserts evict, so the order of use is known to a 64th of the cache.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The number of ticks in which every entry of a full cache could be replaced.
const TICKS: u64 = 64;

/// The present tick. It is on a cache line that only the end of a tick writes to.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Recency {
    tick: AtomicU32,
    inserts: Inserts,
}

#[derive(Default)]
#[repr(align(64))]
struct Inserts {
    count: AtomicU64,
    /// The count at the beginning of the tick.
    begin: AtomicU64,
}

impl Recency {
    #[inline]
    pub(super) fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// Notes an insert into a cache of `held` entries.
    pub(super) fn note_insert(&self, held: u64) {
        let Inserts { count, begin } = &self.inserts;
        let count = count.fetch_add(1, Ordering::Relaxed) + 1;
        // Compared each time, because the number of entries may fall: large ones evict many.
        if count.saturating_sub(begin.load(Ordering::Relaxed)) >= (held / TICKS).max(1) {
            begin.store(count, Ordering::Relaxed);
            self.tick.fetch_add(1, Ordering::Relaxed);
        }
    }
}
