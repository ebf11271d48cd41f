//! Deferred drops: removed entries queue their Python decisions here.
//!
//! Dropping a Python object can run any Python code, such as finalizers. Entries are dropped during
//! moka's maintenance, under its locks and those of this crate, on threads that are not attached,
//! and while another thread forks. So they only queue their decisions here. The next method of a
//! cache drops them in [`drain`], where no lock is held.

use crate::value::decision::Decision;
use pyo3::prelude::*;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};

/// The maximum number of decisions dropped at once. Dropping them takes some microseconds.
const MAX_DRAINED: usize = 64;
/// The number of attempts to lock the queue before a decision is leaked (48 bytes). In a forked
/// child, a thread that does not exist there may hold the lock.
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
        // SAFETY: taken once, here, and not used afterwards.
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

/// Drops some of the queued decisions. Must be called where no lock is held.
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
    // Releases the lock first: a dropped object can queue another one.
    drop(queue);
    drop(drained);
}
