//! The field names of decisions, kept once per process.
//!
//! Decisions repeat a few field names millions of times. Stored values hold two bytes for a known
//! name, and a hit reuses the very string object, whose hash is already known and which is the
//! interned one that `decision["allow"]` looks up by identity. The table is bounded: names beyond
//! [`MAX_NAMES`] or longer than [`MAX_NAME_BYTES`] bytes are stored as text.

use ahash::AHashMap;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

/// The most names kept: 4,096 of at most 64 bytes take less than 1 MiB.
const MAX_NAMES: usize = 4096;
const MAX_NAME_BYTES: usize = 64;

/// The address of the text of each string.
static ADDRESSES: [AtomicUsize; MAX_NAMES] = [const { AtomicUsize::new(0) }; MAX_NAMES];
/// Numbers plus one of names that [`known`] found, by the address of their text.
static BY_ADDRESS: [AtomicU16; 1024] = [const { AtomicU16::new(0) }; 1024];

/// The number of slots of the table that are taken, or about to be.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

type Ids = AHashMap<Box<str>, u16>;

static IDS: LazyLock<RwLock<Ids>> = LazyLock::new(RwLock::default);
static STRINGS: [OnceLock<Py<PyString>>; MAX_NAMES] = [const { OnceLock::new() }; MAX_NAMES];

/// The number of a field name, if it has one or can be given one.
pub fn id(py: Python<'_>, name: &str) -> Option<u16> {
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    known(name).or_else(|| add(py, name))
}

/// The number of a field name that has one. Makes no Python object.
///
/// A name in a program's text is mostly the very string object that is kept here, and then found by
/// where its text is.
#[inline]
pub fn known(name: &str) -> Option<u16> {
    let address = name.as_ptr() as usize;
    // Strings are 16 bytes or more apart; those of one page would otherwise fall on few places.
    let slot = &BY_ADDRESS[(address >> 4 ^ address >> 15) % BY_ADDRESS.len()];
    // A thread that sees the number also sees its string.
    let id = slot.load(Ordering::Acquire);
    // Its text stays where it is as long as the string is kept, which is forever.
    if id != 0 && ADDRESSES[usize::from(id - 1)].load(Ordering::Relaxed) == address {
        return Some(id - 1);
    }
    let id = IDS.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()?;
    if ADDRESSES[usize::from(id)].load(Ordering::Relaxed) == address {
        slot.store(id + 1, Ordering::Release);
    }
    Some(id)
}

/// The string object of a number that [`id`] returned.
#[inline]
pub fn string(id: u16) -> Option<&'static Py<PyString>> {
    STRINGS.get(usize::from(id))?.get()
}

fn add(py: Python<'_>, name: &str) -> Option<u16> {
    // From CPython 3.12 on what is interned stays forever: nothing is that has no address in the table.
    TAKEN
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken < MAX_NAMES).then_some(taken + 1)
        })
        .ok()?;
    // Made before the lock is taken: making it may run the garbage collector, and so anything, or
    // wait until all threads have stopped. So may a look at its text.
    let string = PyString::intern(py, name);
    let address = string.to_str().map_or(0, |text| text.as_ptr() as usize);
    let string = string.unbind();
    let mut ids = IDS.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(id) = ids.get(name) {
        // Another thread was faster.
        TAKEN.fetch_sub(1, Ordering::AcqRel);
        return Some(*id);
    }
    let id = u16::try_from(ids.len()).ok().filter(|id| usize::from(*id) < MAX_NAMES)?;
    STRINGS[usize::from(id)].set(string).ok()?;
    ADDRESSES[usize::from(id)].store(address, Ordering::Relaxed);
    ids.insert(name.into(), id);
    Some(id)
}
