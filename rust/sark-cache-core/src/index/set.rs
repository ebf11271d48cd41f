//! A set of the index: the slots in which the entry of a key may be.

use super::Indexed;
use crate::shim::atomic::{AtomicU16, Ordering};
use crate::shim::{Loaded, SwapOption};
use std::mem::ManuallyDrop;
use std::sync::Arc;

const SLOTS: usize = 6;

/// Six slots with their marks: one cache line.
///
/// The mark of a slot is a part of the hash of its entry's key. It only saves a lookup the way to an
/// entry of another key.
///
/// To store to a slot or to drop one, `arc-swap` looks at a record of each thread that has read a slot.
/// That takes 10 ns for each thread, and 80 ns if there were a thousand. An empty slot owns nothing, so
/// it is not dropped.
#[cfg_attr(not(feature = "shuttle"), repr(align(64)))]
pub(super) struct Set<E> {
    marks: [AtomicU16; SLOTS],
    slots: [ManuallyDrop<SwapOption<E>>; SLOTS],
}

impl<E> Drop for Set<E> {
    fn drop(&mut self) {
        self.empty();
    }
}

impl<E> Default for Set<E> {
    fn default() -> Self {
        Self {
            marks: std::array::from_fn(|_| AtomicU16::new(0)),
            slots: std::array::from_fn(|_| ManuallyDrop::new(SwapOption::empty())),
        }
    }
}

/// Returns the mark of a hash: bits that [`place`](super::place) uses last.
#[inline]
fn mark_of(hash: u64) -> u16 {
    (hash & 0xffff) as u16
}

impl<E> Set<E> {
    /// Removes all entries.
    pub(super) fn empty(&self) {
        for slot in &self.slots {
            if slot.load().is_some() {
                slot.store(None);
            }
        }
    }
}

impl<E: Indexed> Set<E> {
    /// Returns what a slot with an entry of the key holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Loaded<E>> {
        self.slot_of(hash, key).map(|(_, found)| found)
    }

    /// Puts an entry into the slot of its key, or into another one. Only in the turn of the set.
    pub(super) fn put(&self, entry: &Arc<E>) {
        let (hash, key) = (entry.hash(), entry.key());
        let at = match self.slot_of(hash, key) {
            Some((_, found))
                if (*found).as_ref().is_some_and(|other| Arc::ptr_eq(other, entry)) =>
            {
                return;
            }
            Some((at, _)) => at,
            None => self.free_slot().unwrap_or(usize::from(mark_of(hash)) % SLOTS),
        };
        // The entry first. With the mark first, a lookup could find the entry that was there before
        // under this mark.
        self.slots[at].store(Some(Arc::clone(entry)));
        self.marks[at].store(mark_of(hash), Ordering::Release);
    }

    /// Removes the entry of a key. Only in the turn of the set.
    pub(super) fn erase(&self, hash: u64, key: &[u8]) {
        if let Some((at, _)) = self.slot_of(hash, key) {
            self.slots[at].store(None);
        }
    }

    /// Removes this entry, and no other one.
    pub(super) fn forget(&self, entry: &Arc<E>) {
        for at in self.marked(mark_of(entry.hash())) {
            self.slots[at].compare_and_swap(&Some(Arc::clone(entry)), None);
        }
    }

    /// Returns the slots with a mark.
    #[inline]
    fn marked(&self, mark: u16) -> impl Iterator<Item = usize> {
        (0..SLOTS).filter(move |at| self.marks[*at].load(Ordering::Acquire) == mark)
    }

    #[inline]
    fn slot_of(&self, hash: u64, key: &[u8]) -> Option<(usize, Loaded<E>)> {
        self.marked(mark_of(hash)).find_map(|at| {
            let found = self.slots[at].load();
            let has_key = (*found).as_ref().is_some_and(|entry| entry.key() == key);
            has_key.then_some((at, found))
        })
    }

    fn free_slot(&self) -> Option<usize> {
        (0..SLOTS).find(|at| self.slots[*at].load().is_none())
    }
}
