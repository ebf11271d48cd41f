//! Where pending operations are finished: a tokio runtime that starts on first need, starts anew in
//! a forked child, and ends before the interpreter does.
//!
//! A runtime's threads do not survive `fork()`, and its locks may be held by a thread that is gone.
//! So a child never touches its parent's runtime: it is left where it is and a new one is made.
//! What the runtime's threads do to a cache happens inside a [`ForkExcluded`] poll, and a fork waits until
//! no such poll is under way: the child's copy of a cache is never half changed.

pub mod async_runtimes;
pub mod fork_guard;
mod tokio_runtime;

pub use tokio_runtime::spawn;

use fork_guard::{ForkGuard, after_fork_in_parent, before_fork, reset_in_child};
use pyo3::prelude::*;
use sark_cache_core::poll::{Polled, poll_or_keep};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio_runtime::{at_exit, forget_in_child};

/// Begins `future` here and sees to it that it is finished.
pub fn run_in_background(future: impl Future<Output: Send + 'static> + Send + 'static) {
    if let Polled::Pending(future) = poll_or_keep(future)
        && let Err(future) = spawn(future)
    {
        block_on_here(future);
    }
}

/// Finishes `future` on this thread. For where there is no other: what it waits for is done by
/// threads that need nothing of this one, or by itself at its next poll.
pub fn block_on_here<F: Future>(mut future: Pin<Box<F>>) -> F::Output {
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// Finishes `future` on this thread, detached, so that threads which only need the interpreter go
/// on. One of those may fork, but not in the middle of a poll. What it waits for `help` brings about,
/// should nobody else.
pub fn block_on_detached<F>(
    py: Python<'_>,
    mut future: Pin<&mut F>,
    help: impl Fn() + Sync,
) -> F::Output
where
    F: Future<Output: Send> + Send,
{
    let mut poll = || {
        let _pass = ForkGuard::enter();
        help();
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
    py.detach(|| {
        loop {
            match poll() {
                Poll::Ready(output) => return output,
                Poll::Pending => std::thread::yield_now(),
            }
        }
    })
}

/// The child has one thread: no poll is under way, nobody else forks, and no runtime runs.
#[pyfunction]
fn after_fork_in_child() {
    reset_in_child();
    forget_in_child();
}

/// Registers what has to happen around a fork and at exit. Starts nothing.
pub fn register_hooks(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let at_exit = wrap_pyfunction!(at_exit, module)?;
    py.import("atexit")?.call_method1("register", (at_exit,))?;
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let hooks = pyo3::types::PyDict::new(py);
        hooks.set_item("before", wrap_pyfunction!(before_fork, module)?)?;
        hooks.set_item("after_in_parent", wrap_pyfunction!(after_fork_in_parent, module)?)?;
        hooks.set_item("after_in_child", wrap_pyfunction!(after_fork_in_child, module)?)?;
        os.call_method("register_at_fork", (), Some(&hooks))?;
    }
    Ok(())
}
