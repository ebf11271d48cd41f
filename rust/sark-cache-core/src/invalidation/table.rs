//! The hash table of the log: scope hash → newest stamp. One writer, any number of readers.
//!
//! Open addressing with linear probing. A slot is filled once and keeps its hash; afterwards only its
//! stamp changes, and only upwards. So a reader needs no lock: it sees a slot empty, or with a stamp
//! that was written to it.

use crate::shim::atomic::{AtomicU64, Ordering};

/// The size of the first table. Small under the model checker, so that tables grow within a schedule
/// and copying one takes few steps.
const FIRST_SLOTS: usize = if cfg!(feature = "shuttle") { 4 } else { 64 };

/// The records of the invalidation log by scope.
pub(crate) struct RecordTable {
    slots: Box<[Slot]>,
}

#[derive(Default)]
struct Slot {
    hash: AtomicU64,
    stamp: AtomicU64,
}

impl RecordTable {
    /// Creates a table with at least `slots` slots, rounded up to a power of two.
    pub(crate) fn new(slots: usize) -> Self {
        let slots = slots.max(FIRST_SLOTS).next_power_of_two();
        Self { slots: std::iter::repeat_with(Slot::default).take(slots).collect() }
    }

    /// Iterates over the slots that may hold `hash`, in the order of probing.
    fn probe(&self, hash: u64) -> impl Iterator<Item = &Slot> {
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits are used")]
        let start = hash as usize;
        (0..=mask).map(move |step| &self.slots[start.wrapping_add(step) & mask])
    }

    fn slot(&self, hash: u64) -> Option<&Slot> {
        self.probe(hash)
            .map(|slot| (slot, slot.hash.load(Ordering::Acquire)))
            .find(|(_, found)| *found == hash || *found == 0)
            .and_then(|(slot, found)| (found == hash).then_some(slot))
    }

    /// Returns the stamp of the newest record of `hash`.
    pub(crate) fn find(&self, hash: u64) -> Option<u64> {
        self.slot(hash).map(|slot| slot.stamp.load(Ordering::Acquire))
    }

    /// Raises the record of `hash` to `stamp`. Returns false if there is none.
    pub(crate) fn update(&self, hash: u64, stamp: u64) -> bool {
        self.slot(hash).is_some_and(|slot| {
            slot.stamp.store(stamp, Ordering::Release);
            true
        })
    }

    /// Adds a record for a new hash. The caller keeps half of the slots empty.
    pub(crate) fn insert(&self, hash: u64, stamp: u64) {
        let slot = self
            .probe(hash)
            .find(|slot| slot.hash.load(Ordering::Relaxed) == 0)
            .expect("half of the slots are empty");
        // The stamp first, so that a reader that finds the hash finds its stamp.
        slot.stamp.store(stamp, Ordering::Relaxed);
        slot.hash.store(hash, Ordering::Release);
    }

    /// Copies the records newer than `stamp` into a table with at least `slots` slots.
    pub(crate) fn copy_newer(&self, stamp: u64, slots: usize) -> Self {
        let kept = || {
            self.slots.iter().filter_map(|slot| {
                let hash = slot.hash.load(Ordering::Relaxed);
                let record = slot.stamp.load(Ordering::Relaxed);
                (hash != 0 && record > stamp).then_some((hash, record))
            })
        };
        let copy = Self::new(slots.max((kept().count() + 1) * 2));
        for (hash, record) in kept() {
            copy.insert(hash, record);
        }
        copy
    }

    /// Returns the number of slots.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of slots that hold a record.
    pub(crate) fn used(&self) -> usize {
        self.slots.iter().filter(|slot| slot.hash.load(Ordering::Relaxed) != 0).count()
    }
}
