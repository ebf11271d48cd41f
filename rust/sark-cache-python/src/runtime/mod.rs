//! The background runtime: finishes operations that were pending at their first poll.
//!
//! It is a tokio runtime of two threads. It starts at the first pending operation and stops before
//! the interpreter does.
//!
//! # Fork
//! The threads of a runtime do not survive `fork()`, and its locks may be held by a thread that the
//! child does not have. So a child never touches the runtime of its parent: it leaks that one and
//! starts another. The runtime's threads change a cache only inside a
//! [`ForkExcluded`](fork_guard::ForkExcluded) poll, and a fork waits until no such poll runs: the
//! child never gets a half-changed copy of a cache.

pub mod async_runtimes;
pub mod fork_guard;
pub mod lease;
mod tokio_runtime;

pub use tokio_runtime::spawn;

use fork_guard::{ForkGuard, after_fork_in_parent, before_fork, reset_in_child};
use pyo3::prelude::*;
use sark_cache_core::poll::{Polled, poll_or_keep};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio_runtime::{at_exit, forget_in_child};

/// Polls `future` once on this thread. If it is pending, the runtime finishes it; if no runtime is
/// available, this thread does.
pub fn run_in_background(future: impl Future<Output: Send + 'static> + Send + 'static) {
    if let Polled::Pending(future) = poll_or_keep(future)
        && let Err(future) = spawn(future)
    {
        block_on_here(future);
    }
}

/// Polls `future` to completion on this thread. Used when no runtime is available.
///
/// It cannot deadlock: the future waits only for other threads, which need nothing of this one, or
/// for its own next poll.
pub fn block_on_here<F: Future>(mut future: Pin<Box<F>>) -> F::Output {
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// Polls `future` to completion on this thread, detached from the interpreter, so that threads that
/// need the interpreter continue. One of them may fork, but not during a poll.
///
/// `help` is called before each poll. It does the work that the future waits for, in case no other
/// thread does.
pub fn block_on_detached<F>(
    py: Python<'_>,
    mut future: Pin<&mut F>,
    help: impl Fn() + Sync,
) -> F::Output
where
    F: Future<Output: Send> + Send,
{
    let mut poll = || {
        let _guard = ForkGuard::enter();
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

/// Resets the state of a forked child, which has one thread and no runtime.
#[pyfunction]
fn after_fork_in_child() {
    // First: until then the child could serve what the parent has to stop serving.
    lease::end_all();
    reset_in_child();
    forget_in_child();
}

/// Registers the hooks of `fork()` and of the interpreter's exit. Starts no thread.
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
