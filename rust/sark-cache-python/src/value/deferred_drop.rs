//! Decisions whose entries are gone, until a method of a cache lets go of them.
//!
//! To let go of a Python object may run any Python code: its own, and that of whatever else waits to
//! be let go of. Entries are dropped in the middle of moka's upkeep, under its locks and ours, on
//! threads that are not attached, and while another thread forks. So they only leave their decisions
//! here, and [`drain`] is called where no lock is held.

use crate::value::decision::Decision;
use pyo3::prelude::*;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};

/// How many are let go of at once: some microseconds' worth.
const MAX_DRAINED: usize = 64;
/// How often a place in the list is asked for before a decision is given up, 48 bytes that stay:
/// in a forked child the lock may belong to a thread that is not there.
const MAX_TRIES: usize = 10_000;

static QUEUE: Mutex<Vec<Py<Decision>>> = Mutex::new(Vec::new());
static HAS_WORK: AtomicBool = AtomicBool::new(false);

/// A decision that an entry shares with its callers.
pub struct Deferred(ManuallyDrop<Py<Decision>>);

impl Deferred {
    pub fn new(decision: Py<Decision>) -> Self {
        Self(ManuallyDrop::new(decision))
    }

    #[inline]
    pub fn get<'py>(&self, py: Python<'py>) -> Bound<'py, Decision> {
        self.0.bind(py).clone()
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        // SAFETY: taken once, here, and never looked at again.
        let decision = unsafe { ManuallyDrop::take(&mut self.0) };
        for _ in 0..MAX_TRIES {
            match QUEUE.try_lock() {
                Ok(mut queue) => {
                    queue.push(decision);
                    HAS_WORK.store(true, Ordering::Release);
                    return;
                }
                Err(TryLockError::Poisoned(_)) => break,
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        std::mem::forget(decision);
    }
}

/// Lets go of some of what entries left behind. To be called where no lock is held.
#[inline]
pub fn drain(_py: Python<'_>) {
    if HAS_WORK.load(Ordering::Acquire) {
        drain_some();
    }
}

#[cold]
fn drain_some() {
    let Ok(mut queue) = QUEUE.try_lock() else { return };
    let kept = queue.len().saturating_sub(MAX_DRAINED);
    let drained = queue.split_off(kept);
    if queue.is_empty() {
        HAS_WORK.store(false, Ordering::Release);
        queue.shrink_to(MAX_DRAINED);
    }
    // The lock first: what is let go of may leave something here itself.
    drop(queue);
    drop(drained);
}
