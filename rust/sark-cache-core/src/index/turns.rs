//! The turns of keys: locks under which the cache and its index change together.

use crate::shim::{Mutex, MutexGuard};
use std::sync::TryLockError;

/// One lock for each share of the hashes.
#[derive(Default)]
pub(super) struct Turns {
    locks: [Mutex<()>; Turns::COUNT],
}

impl Turns {
    /// A power of two, and at most the number of sets of the smallest table.
    pub(super) const COUNT: usize = if cfg!(feature = "shuttle") { 2 } else { 32 };

    /// Takes the turn of a hash. `None` if another thread has it.
    pub(super) fn try_take(&self, hash: u64) -> Option<MutexGuard<'_, ()>> {
        match self.locks[super::place(hash, Self::COUNT)].try_lock() {
            Ok(turn) => Some(turn),
            // Nothing under this lock panics half way through a change.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits for the turn of a hash. `None` after a second: no thread has it, because a fork copied
    /// the lock while another thread had it.
    pub(super) fn wait(&self, hash: u64) -> Option<MutexGuard<'_, ()>> {
        (0..pauses::COUNT).find_map(|waited| {
            self.try_take(hash).or_else(|| {
                pauses::pause(waited);
                None
            })
        })
    }
}

/// The pauses of a thread that waits for a turn: a thread has it for about a microsecond.
#[cfg(not(feature = "shuttle"))]
mod pauses {
    use std::time::Duration;

    const SPINS: usize = 64;
    const YIELDS: usize = 256;
    const SLEEPS: usize = 1_000;
    pub(super) const COUNT: usize = YIELDS + SLEEPS;

    pub(super) fn pause(waited: usize) {
        if waited < SPINS {
            std::hint::spin_loop();
        } else if waited < YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Under the model checker a thread soon gives up, so that this is checked too.
#[cfg(feature = "shuttle")]
mod pauses {
    pub(super) const COUNT: usize = 3;

    pub(super) fn pause(_waited: usize) {
        shuttle::thread::yield_now();
    }
}
