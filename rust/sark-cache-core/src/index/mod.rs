//! The index of the entries that are requested often: a small hash table in front of moka.
//!
//! A hit in moka follows a chain of six pointers and records the read. In a cache of ten thousand
//! entries that costs a microsecond, nearly all of it for memory. A hit in the index reads the
//! *set* of its key, which is one cache line, and the entry. It writes to no memory that threads
//! share, takes no lock, and never waits.
//!
//! moka holds the entries and evicts them. The index only refers to entries that moka holds, or held
//! a moment ago. It may lack any entry: then the lookup asks moka.
//!
//! # Rules
//! An entry that was overwritten or removed must not be found any more. The log of invalidations does
//! not cover that, so the index has these rules. `tests/model` has a variant that breaks each one.
//!
//! 1. A thread that changes what moka holds under a key changes the index too, both in the *turn*
//!    of the key, a lock: [`write`](Index::write) and [`erase`](Index::erase).
//! 2. If the turn cannot be taken, the index is switched off. A forked child may inherit a lock that
//!    no thread of it holds.
//! 3. An entry that was found in moka gets into the index only in the turn in which it was found:
//!    [`adopt`](Index::adopt).
//! 4. All keys of one set have one turn, so a set has one writer at a time. In a set, at most one
//!    slot has an entry of a given key, and its mark is the mark of that key. Without a turn, a slot
//!    may only be emptied of a given entry: [`forget`](Index::forget).
//!
//! # Growth
//! The first table is small. When the cache has more entries than a table is made for, an empty one of
//! four times the size takes its place. Entries get into it when they are found in moka. The old table is
//! emptied step by step.

mod set;
mod turns;

use crate::shim::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::shim::{Loaded, into_inner};
use set::Set;
use std::ops::Deref;
use std::sync::atomic::fence;
use std::sync::{Arc, OnceLock};
use turns::Turns;

/// The entries for which a table has one set. With six slots, 3 % of the entries find no room.
const ENTRIES_PER_SET: u64 = 3;
/// The number of sets of the first table.
const FIRST_SETS: u64 = if cfg!(feature = "shuttle") { 2 } else { 1024 };
/// The number of tables, each four times as large as the one before. The last is enough for 200
/// million entries.
const TABLES: usize = 9;
/// The number of sets of an old table that each insert empties.
const EMPTIED_PER_INSERT: usize = 2;
/// The number of tables of an index that is switched off.
const OFF: usize = usize::MAX;

/// An entry that can be in an index.
pub trait Indexed {
    /// Returns the hash of its key.
    fn hash(&self) -> u64;

    /// Returns its key.
    fn key(&self) -> &[u8];

    /// Returns whether the cache holds it.
    fn is_held(&self) -> bool;
}

/// An index of entries of the type `E`.
pub struct Index<E> {
    tables: [OnceLock<Box<[Set<E>]>>; TABLES],
    /// The number of tables. The last one is in use.
    count: AtomicUsize,
    /// For each table, whether a thread makes it or has made it.
    claimed: [AtomicBool; TABLES],
    /// The number of sets of each old table that were emptied.
    emptied: [AtomicUsize; TABLES],
    /// The largest useful number of sets.
    most_sets: u64,
    turns: Turns,
}

/// An entry that was found in the index. It stays alive while this exists.
pub struct Found<E>(Loaded<E>);

impl<E> Deref for Found<E> {
    type Target = E;

    #[inline]
    fn deref(&self) -> &E {
        (*self.0).as_deref().expect("an entry was found")
    }
}

impl<E> Found<E> {
    /// Returns the entry itself.
    #[expect(clippy::missing_panics_doc, reason = "it is made of a slot with an entry alone")]
    pub fn into_arc(self) -> Arc<E> {
        into_inner(self.0).expect("an entry was found")
    }
}

impl<E: Indexed> Index<E> {
    /// Creates an index for a cache of at most `max_entries`. With 0, it never has an entry.
    pub fn new(max_entries: u64) -> Self {
        let turns = Turns::COUNT as u64;
        Self {
            tables: std::array::from_fn(|_| OnceLock::new()),
            count: AtomicUsize::new(if max_entries == 0 { OFF } else { 0 }),
            claimed: std::array::from_fn(|_| AtomicBool::new(false)),
            emptied: std::array::from_fn(|_| AtomicUsize::new(0)),
            // So that each turn has whole sets.
            most_sets: max_entries.div_ceil(ENTRIES_PER_SET).div_ceil(turns).saturating_mul(turns),
            turns: Turns::default(),
        }
    }

    /// Returns the entry of a key, if the index has it.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Found<E>> {
        self.set(hash)?.find(hash, key).map(Found)
    }

    /// Calls `hold`, which makes the cache hold an entry, and puts it into the index.
    pub fn write<R>(&self, entry: &Arc<E>, hold: impl FnOnce() -> R) -> R {
        let turn = self.turns.wait(entry.hash());
        if turn.is_none() {
            self.switch_off();
        }
        let result = hold();
        self.put(entry);
        result
    }

    /// Calls `remove`, which makes the cache drop what it holds under a key, and removes that from
    /// the index.
    pub fn erase<R>(&self, hash: u64, key: &[u8], remove: impl FnOnce() -> R) -> R {
        let turn = self.turns.wait(hash);
        if turn.is_none() {
            self.switch_off();
        }
        let removed = remove();
        if let Some(set) = self.set(hash) {
            set.erase(hash, key);
        }
        removed
    }

    /// Calls `get`, which finds an entry in the cache, and puts it into the index, unless another
    /// thread has the turn of its key. Never waits.
    pub fn adopt(&self, hash: u64, get: impl FnOnce() -> Option<Arc<E>>) -> Option<Arc<E>> {
        let turn = self.turns.try_take(hash);
        let entry = get()?;
        if turn.is_some() {
            self.put(&entry);
        }
        Some(entry)
    }

    /// Removes an entry that the cache does not hold any more. Takes no lock.
    pub fn forget(&self, entry: &Arc<E>) {
        // With the one in `put`: either this sees the slot, or that sees that it is not held.
        fence(Ordering::SeqCst);
        // A thread that was delayed may have put it into an old table.
        for table in self.tables.iter().map_while(OnceLock::get) {
            set_of(table, entry.hash()).forget(entry);
        }
    }

    /// Creates a larger table if the cache has more entries than the present one is made for.
    /// Otherwise empties some sets of an old one.
    pub fn grow(&self, entries: u64) {
        let count = self.count.load(Ordering::Acquire);
        if count == OFF {
            return;
        }
        let sets = count.checked_sub(1).map_or(0, |last| self.sets(last));
        if entries.div_ceil(ENTRIES_PER_SET) > sets && sets < self.most_sets && count < TABLES {
            // No thread waits for the one that makes the table. In a forked child, that thread may
            // not exist, and then the index does not grow any more.
            if self.claimed[count].swap(true, Ordering::AcqRel) {
                return;
            }
            let table = (0..self.sets(count)).map(|_| Set::default()).collect();
            if self.tables[count].set(table).is_ok() {
                let (seen, next) = (count, count + 1);
                let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
                let _ = self.count.compare_exchange(seen, next, success, failure);
            }
        } else if let Some(old) = count.checked_sub(2) {
            self.empty_some(old);
        }
    }

    /// Returns the number of sets of a table.
    fn sets(&self, table: usize) -> u64 {
        (FIRST_SETS << (2 * table)).min(self.most_sets)
    }

    fn empty_some(&self, old: usize) {
        let Some(table) = self.tables[old].get() else { return };
        if self.emptied[old].load(Ordering::Relaxed) < table.len() {
            let from = self.emptied[old].fetch_add(EMPTIED_PER_INSERT, Ordering::Relaxed);
            table.iter().skip(from).take(EMPTIED_PER_INSERT).for_each(Set::empty);
        }
    }

    fn switch_off(&self) {
        self.count.store(OFF, Ordering::SeqCst);
    }

    /// Puts an entry into the index. The caller has the turn of its key, and the cache holds it.
    fn put(&self, entry: &Arc<E>) {
        if let Some(set) = self.set(entry.hash()) {
            set.put(entry);
            fence(Ordering::SeqCst);
            // The cache may have evicted it before it was put here.
            if !entry.is_held() {
                set.forget(entry);
            }
        }
    }

    #[inline]
    fn set(&self, hash: u64) -> Option<&Set<E>> {
        let last = self.count.load(Ordering::Acquire).wrapping_sub(1);
        self.tables.get(last)?.get().map(|table| set_of(table, hash))
    }
}

/// Returns the set of a hash. The order of the sets is that of the hashes, as for [`Turns`].
#[inline]
fn set_of<E>(table: &[Set<E>], hash: u64) -> &Set<E> {
    &table[place(hash, table.len())]
}

/// Returns a number below `count` that grows with the upper half of the hash (Lemire, "Fast Random
/// Integer Generation in an Interval", 2019).
#[inline]
fn place(hash: u64, count: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "it is below `count`")]
    let place = ((u128::from(hash) * count as u128) >> u64::BITS) as usize;
    place
}
