//! Scope hash → newest stamp: open addressing with linear probing, written by one, read by all.
//!
//! A slot goes from empty to used once and keeps its hash; only its stamp changes afterwards, and
//! only upwards. So a reader needs no lock: it sees a slot empty, or with the stamp it was given.

use crate::shim::atomic::{AtomicU64, Ordering};

/// So few under the model checker that it sees a table grow, and that copying one takes few steps.
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
    /// At least `slots` slots, rounded up to a power of two.
    pub(crate) fn new(slots: usize) -> Self {
        let slots = slots.max(FIRST_SLOTS).next_power_of_two();
        Self { slots: std::iter::repeat_with(Slot::default).take(slots).collect() }
    }

    /// The slots that `hash` may be in, in the order of probing.
    fn probe(&self, hash: u64) -> impl Iterator<Item = &Slot> {
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        let start = hash as usize;
        (0..=mask).map(move |step| &self.slots[start.wrapping_add(step) & mask])
    }

    fn slot(&self, hash: u64) -> Option<&Slot> {
        self.probe(hash)
            .map(|slot| (slot, slot.hash.load(Ordering::Acquire)))
            .find(|(_, found)| *found == hash || *found == 0)
            .and_then(|(slot, found)| (found == hash).then_some(slot))
    }

    /// The stamp of the newest record of `hash`.
    pub(crate) fn find(&self, hash: u64) -> Option<u64> {
        self.slot(hash).map(|slot| slot.stamp.load(Ordering::Acquire))
    }

    /// Moves the record of `hash` to `stamp`; false if there is none.
    pub(crate) fn update(&self, hash: u64, stamp: u64) -> bool {
        self.slot(hash).is_some_and(|slot| {
            slot.stamp.store(stamp, Ordering::Release);
            true
        })
    }

    /// Adds a record that is not there yet. The caller keeps half of the slots empty.
    pub(crate) fn insert(&self, hash: u64, stamp: u64) {
        let slot = self
            .probe(hash)
            .find(|slot| slot.hash.load(Ordering::Relaxed) == 0)
            .expect("half of the slots are empty");
        // The stamp first: a reader that finds the hash finds its stamp.
        slot.stamp.store(stamp, Ordering::Relaxed);
        slot.hash.store(hash, Ordering::Release);
    }

    /// A copy with only the records newer than `stamp`, and with at least `slots` slots.
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

    /// How many slots there are.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many of them hold a record.
    pub(crate) fn used(&self) -> usize {
        self.slots.iter().filter(|slot| slot.hash.load(Ordering::Relaxed) != 0).count()
    }
}
