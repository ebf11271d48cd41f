//! The awaitables that the methods return. Python treats them as coroutines.
//!
//! An operation that is ready at its first poll becomes a [`Ready`]: a finished awaitable that holds
//! its result and gives it up at the first `send`, without an event loop, a task or a thread.
//! Only one that is not becomes a [`Pending`], which pyo3-async-runtimes turns into an asyncio
//! future when it is first awaited; the operation itself goes on whether it is awaited or not.
//!
//! Both have `__await__`, `send`, `throw` and `close`, so `asyncio.iscoroutine` is true of them and
//! `create_task`, `gather`, `wait_for`, `ensure_future`, anyio and uvloop take them. Awaiting one
//! twice raises `RuntimeError`.

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

/// Polls `future` once on this thread: ready, the awaitable is finished; pending, the runtime
/// finishes the operation and the awaitable waits for it. An exception is raised at the call in the
/// first case, at the `await` in the second.
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

/// The outcome of a future that is all but always ready at its first poll, as an insert is. If it is
/// not, this thread waits for it: for a turn of moka's upkeep in another one, which `help` does
/// should nobody else (moka may miss that the other one has ended).
///
/// It stays where it is, on the stack: to move one of an insert, 1.2 KB, or to allocate for it would
/// take as long as a hit.
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

/// A finished awaitable for `value`.
pub fn ready<'py>(py: Python<'py>, value: impl IntoPyObject<'py>) -> PyResult<Bound<'py, PyAny>> {
    let value = value.into_bound_py_any(py)?;
    // Every method comes by here, with no lock held.
    drain(py);
    new_ready(py, value)
}

/// Python's None; Rust's `()` would become an empty tuple.
pub const NOTHING: Option<bool> = None;
