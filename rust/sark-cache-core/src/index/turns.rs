//! The turns of keys: locks under which the cache and its index change together.

use crate::shim::atomic::{AtomicBool, Ordering};
use crate::shim::{Mutex, MutexGuard};
use std::sync::TryLockError;

/// One lock for each share of the hashes.
pub(super) struct Turns([Turn; Turns::COUNT]);

struct Turn {
    lock: Mutex<()>,
    /// True if a thread could not get the lock. No thread waits for it again.
    is_stuck: AtomicBool,
}

impl Default for Turns {
    fn default() -> Self {
        let new = |_| Turn { lock: Mutex::new(()), is_stuck: AtomicBool::new(false) };
        Self(std::array::from_fn(new))
    }
}

impl Turns {
    /// A power of two, and at most the number of sets of the smallest table.
    pub(super) const COUNT: usize = if cfg!(feature = "shuttle") { 2 } else { 32 };

    /// Takes the turn of a hash. `None` if another thread has it.
    pub(super) fn try_take(&self, hash: u64) -> Option<MutexGuard<'_, ()>> {
        self.turn(hash).try_take()
    }

    /// Waits for the turn of a hash. `None` after a second: no thread has it, because a fork copied
    /// the lock while another thread had it.
    pub(super) fn wait(&self, hash: u64) -> Option<MutexGuard<'_, ()>> {
        let turn = self.turn(hash);
        let tries = if turn.is_stuck.load(Ordering::Relaxed) { 1 } else { pauses::COUNT };
        let taken = (0..tries).find_map(|waited| {
            turn.try_take().or_else(|| {
                pauses::pause(waited);
                None
            })
        });
        turn.is_stuck.store(taken.is_none(), Ordering::Relaxed);
        taken
    }

    fn turn(&self, hash: u64) -> &Turn {
        &self.0[super::place(hash, Self::COUNT)]
    }
}

impl Turn {
    fn try_take(&self) -> Option<MutexGuard<'_, ()>> {
        match self.lock.try_lock() {
            Ok(turn) => Some(turn),
            // Nothing under this lock panics half way through a change.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
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
