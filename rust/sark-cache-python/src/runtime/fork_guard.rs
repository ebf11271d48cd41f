//! Keeps `fork()` out of the middle of an operation.

use pyo3::prelude::*;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// Counts the forks on the way to this process: what was begun before one is not finished after it.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The number of forks between the first process and this one.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// The gated polls under way, and, counted in units of [`FORK`], the forks that wait or happen.
static GATE: AtomicU64 = AtomicU64::new(0);
const FORK: u64 = 1 << 32;

/// A future that is not polled while the process forks.
pub struct ForkExcluded<F>(pub Pin<Box<F>>);

impl<F: Future> Future for ForkExcluded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _pass = ForkGuard::enter();
        self.0.as_mut().poll(context)
    }
}

pub struct ForkGuard;

thread_local! {
    /// How many passes this thread has: to wait for a fork with one would be to wait for oneself.
    static PASSES: Cell<usize> = const { Cell::new(0) };
}

impl ForkGuard {
    fn try_enter() -> Option<Self> {
        if PASSES.get() > 0 {
            PASSES.set(PASSES.get() + 1);
            return Some(Self);
        }
        let enter = |state| (state < FORK).then_some(state + 1);
        GATE.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).ok()?;
        PASSES.set(1);
        Some(Self)
    }

    pub fn enter() -> Self {
        loop {
            if let Some(pass) = Self::try_enter() {
                return pass;
            }
            std::thread::yield_now();
        }
    }
}

/// Does what a fork must not come in the middle of. It must not fork itself.
pub fn fork_excluded<T>(py: Python<'_>, work: impl FnOnce() -> T) -> T {
    // Detached, or the thread that forks could not go on.
    let _pass = ForkGuard::try_enter().unwrap_or_else(|| py.detach(ForkGuard::enter));
    work()
}

impl Drop for ForkGuard {
    fn drop(&mut self) {
        PASSES.set(PASSES.get() - 1);
        if PASSES.get() == 0 {
            GATE.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Keeps new polls out and waits for those under way: a turn of a sweep each.
#[pyfunction]
pub fn before_fork(py: Python<'_>) {
    GATE.fetch_add(FORK, Ordering::AcqRel);
    let under_way = || !GATE.load(Ordering::Acquire).is_multiple_of(FORK);
    if under_way() {
        // Detached: one of them may be about to hand over a result.
        py.detach(|| {
            while under_way() {
                std::thread::yield_now();
            }
        });
    }
}

#[pyfunction]
pub fn after_fork_in_parent() {
    GATE.fetch_sub(FORK, Ordering::AcqRel);
}

/// Resets the gate in the child, which has one thread: no poll is under way and nobody else forks.
pub fn reset_in_child() {
    GATE.store(0, Ordering::Release);
    GENERATION.fetch_add(1, Ordering::AcqRel);
}
