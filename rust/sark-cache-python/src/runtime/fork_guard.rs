//! The fork guard: `fork()` waits until no thread is inside a guarded section.
//!
//! Sections are short: one poll of a background operation, which visits at most one batch of entries.

use pyo3::prelude::*;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// The number of forks between the first process and this one. An operation that was started before
/// a fork does not finish in the child.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Returns the number of forks between the first process and this one.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// The number of threads inside a guarded section, plus [`FORK`] for each fork that waits or runs.
static GATE: AtomicU64 = AtomicU64::new(0);
const FORK: u64 = 1 << 32;

/// A future that is not polled while the process forks.
pub struct ForkExcluded<F>(pub Pin<Box<F>>);

impl<F: Future> Future for ForkExcluded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _guard = ForkGuard::enter();
        self.0.as_mut().poll(context)
    }
}

/// A guarded section: while it exists, `fork()` waits.
pub struct ForkGuard;

thread_local! {
    /// The number of guards of this thread. A thread that has one does not wait for a fork: the fork
    /// waits for that guard.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

impl ForkGuard {
    /// Enters a guarded section; returns `None` while a fork waits or runs.
    fn try_enter() -> Option<Self> {
        if HELD.get() > 0 {
            HELD.set(HELD.get() + 1);
            return Some(Self);
        }
        let enter = |state| (state < FORK).then_some(state + 1);
        GATE.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).ok()?;
        HELD.set(1);
        Some(Self)
    }

    /// Enters a guarded section, after a fork that waits or runs.
    pub fn enter() -> Self {
        loop {
            if let Some(guard) = Self::try_enter() {
                return guard;
            }
            std::thread::yield_now();
        }
    }
}

/// Runs `work` in a guarded section. `work` must not fork.
pub fn fork_excluded<T>(py: Python<'_>, work: impl FnOnce() -> T) -> T {
    // Detached: the forking thread needs the interpreter to finish.
    let _guard = ForkGuard::try_enter().unwrap_or_else(|| py.detach(ForkGuard::enter));
    work()
}

impl Drop for ForkGuard {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() == 0 {
            GATE.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Prevents new guarded sections and waits for the running ones: at most one batch of a sweep each.
#[pyfunction]
pub fn before_fork(py: Python<'_>) {
    GATE.fetch_add(FORK, Ordering::AcqRel);
    let is_entered = || !GATE.load(Ordering::Acquire).is_multiple_of(FORK);
    if is_entered() {
        // Detached: a section may need the interpreter to deliver a result.
        py.detach(|| {
            while is_entered() {
                std::thread::yield_now();
            }
        });
    }
}

/// Allows guarded sections again.
#[pyfunction]
pub fn after_fork_in_parent() {
    GATE.fetch_sub(FORK, Ordering::AcqRel);
}

/// Resets the guard in the child, which has one thread: no section runs and no other thread forks.
pub fn reset_in_child() {
    GATE.store(0, Ordering::Release);
    GENERATION.fetch_add(1, Ordering::AcqRel);
}
