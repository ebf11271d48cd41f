//! The awaitables that the methods return. Python treats them as coroutines.
//!
//! An operation that is ready at its first poll becomes a [`Ready`](ready): a finished awaitable.
//! It holds the result and returns it at the first `send`, without an event loop, a task or a
//! thread. Any other operation becomes a [`Pending`]. pyo3-async-runtimes makes it an asyncio
//! future when it is first awaited. The operation continues even if nothing awaits it.
//!
//! Both have `__await__`, `send`, `throw` and `close`. So `asyncio.iscoroutine` returns True for
//! them, and `create_task`, `gather`, `wait_for`, `ensure_future`, anyio and uvloop accept them.
//! Awaiting one twice raises `RuntimeError`.

pub mod coroutine_method;
pub mod pending;
mod protocol;
mod ready;

use crate::awaitable::pending::Pending;
use crate::awaitable::ready::new_ready;
use crate::runtime::{block_on_detached, block_on_here, spawn};
use crate::value::deferred_drop::drain;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use sark_cache_core::poll::{Polled, poll_or_keep};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Polls `future` once on this thread and returns an awaitable of its output.
///
/// If the future is ready, the awaitable is finished. An exception is raised by this function. If
/// the future is pending, the runtime finishes it and the awaitable waits for it. An exception is
/// raised by the `await`.
pub fn awaitable<'py, T>(
    py: Python<'py>,
    future: impl Future<Output = PyResult<T>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>>
where
    T: for<'a> IntoPyObject<'a> + Send + 'static,
{
    match poll_or_keep(future) {
        Polled::Ready(output) => ready(py, output?),
        Polled::Pending(future) => match spawn(future) {
            Ok(outcome) => Pending::start(py, outcome),
            Err(future) => ready(py, block_on_here(future)?),
        },
    }
}

/// Returns the output of a future that is almost always ready at its first poll, such as an insert.
///
/// If it is pending, this thread waits: a run of moka's maintenance in another thread has to finish
/// first. moka may miss the end of that run, so `help` runs the maintenance too.
///
/// The future stays on the stack. The future of an insert has 1.2 KB: to move it, or to allocate
/// memory for it, would take as long as a hit.
pub fn poll_or_block<T: Send>(
    py: Python<'_>,
    mut future: Pin<&mut (impl Future<Output = T> + Send)>,
    help: impl Fn() + Sync,
) -> T {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => block_on_detached(py, future, help),
    }
}

/// Returns a finished awaitable for `value`.
pub fn ready<'py>(py: Python<'py>, value: impl IntoPyObject<'py>) -> PyResult<Bound<'py, PyAny>> {
    let value = value.into_bound_py_any(py)?;
    // Every method calls this function, and holds no lock here.
    drain(py);
    new_ready(py, value)
}

/// Python's None. Rust's `()` would become an empty tuple.
pub const NOTHING: Option<bool> = None;
