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

/// The maximum number of names. 4,096 names of at most 64 bytes take less than 1 MiB.
const MAX_NAMES: usize = 4096;
const MAX_NAME_BYTES: usize = 64;

/// The address of the text of each string.
static ADDRESSES: [AtomicUsize; MAX_NAMES] = [const { AtomicUsize::new(0) }; MAX_NAMES];
/// The numbers, plus one, of names that [`known`] found, by a hash of the address of their text.
static BY_ADDRESS: [AtomicU16; 1024] = [const { AtomicU16::new(0) }; 1024];

/// The number of slots of the table that are taken, or about to be taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

type Ids = AHashMap<Box<str>, u16>;

static IDS: LazyLock<RwLock<Ids>> = LazyLock::new(RwLock::default);
static STRINGS: [OnceLock<Py<PyString>>; MAX_NAMES] = [const { OnceLock::new() }; MAX_NAMES];

/// Returns the number of a field name. Gives it a number if it has none and there is space.
pub fn id(py: Python<'_>, name: &str) -> Option<u16> {
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    known(name).or_else(|| add(py, name))
}

/// Returns the number of a field name, or `None` if it has no number. Creates no Python object.
///
/// A name in the source of a program is mostly the same string object that is kept here. Then the
/// address of its text is enough to find it.
#[inline]
pub fn known(name: &str) -> Option<u16> {
    let address = name.as_ptr() as usize;
    // Strings are at least 16 bytes apart. The second shift spreads strings of one page over more
    // slots.
    let slot = &BY_ADDRESS[(address >> 4 ^ address >> 15) % BY_ADDRESS.len()];
    // A thread that sees the number also sees its string.
    let id = slot.load(Ordering::Acquire);
    // The string is kept forever, so its text keeps its address.
    if id != 0 && ADDRESSES[usize::from(id - 1)].load(Ordering::Relaxed) == address {
        return Some(id - 1);
    }
    let id = IDS.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()?;
    if ADDRESSES[usize::from(id)].load(Ordering::Relaxed) == address {
        slot.store(id + 1, Ordering::Release);
    }
    Some(id)
}

/// Returns the string object of a number that [`id`] returned.
#[inline]
pub fn string(id: u16) -> Option<&'static Py<PyString>> {
    STRINGS.get(usize::from(id))?.get()
}

fn add(py: Python<'_>, name: &str) -> Option<u16> {
    // From CPython 3.12 on, an interned string is never freed. So a slot is taken first: without
    // one, nothing is interned.
    TAKEN
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken < MAX_NAMES).then_some(taken + 1)
        })
        .ok()?;
    // Created before the lock is taken. Creating a string, or reading its text, may run the garbage
    // collector, and with it any Python code, or may wait until all threads have stopped.
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
