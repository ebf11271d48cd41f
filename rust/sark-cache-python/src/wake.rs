//! Waking asyncio tasks from Rust: all that one event wakes with one call for each event loop.
//!
//! A task waits for an asyncio future that its loop made; a [`Sleeper`] is the waker that ends the
//! wait, from any thread. `call_soon_threadsafe` for a thousand of them costs what it costs for one,
//! and little beside it; a future of pyo3-async-runtimes for each costs 127 µs apiece.

use crate::load::loading;
use crate::runtime::complete;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyModule};
use sark_cache_core::ready::yield_once;
use std::cell::RefCell;
use std::sync::Arc;
use std::task::Wake;

/// A task of an event loop that waits for a future.
pub struct Sleeper {
    event_loop: Py<PyAny>,
    future: Py<PyAny>,
    /// What to do when it cannot be woken any more, because its loop was closed.
    lost: Box<dyn Fn() + Send + Sync>,
}

thread_local! {
    /// Those to be woken together, while [`together`] runs.
    static WOKEN: RefCell<Option<Vec<Arc<Sleeper>>>> = const { RefCell::new(None) };
}

impl Sleeper {
    /// A new future of the running loop, and its waker.
    pub fn new(py: Python<'_>, lost: impl Fn() + Send + Sync + 'static) -> PyResult<Arc<Self>> {
        let event_loop = asyncio(py)?.call_method0(name!(py, "get_running_loop"))?;
        let future = event_loop.call_method0(name!(py, "create_future"))?;
        let (event_loop, future) = (event_loop.unbind(), future.unbind());
        Ok(Arc::new(Self { event_loop, future, lost: Box::new(lost) }))
    }

    /// What the task awaits.
    pub fn future<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.future.bind(py).clone()
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        let alone = WOKEN.with_borrow_mut(|woken| match woken {
            Some(woken) => {
                woken.push(self);
                None
            }
            None => Some(self),
        });
        if let Some(sleeper) = alone {
            Python::attach(|py| {
                // The last reference to one who leads may be dropped while an exception is on its
                // way.
                let on_its_way = PyErr::take(py);
                if let Err(error) = resume(py, vec![sleeper]) {
                    error.write_unraisable(py, None);
                }
                if let Some(error) = on_its_way {
                    error.restore(py);
                }
            });
        }
    }
}

/// Does something that may wake many, and wakes them afterwards, together. An error is no error of
/// theirs: an interrupt, a request to exit.
pub fn together(py: Python<'_>, wakes: impl FnOnce()) -> PyResult<()> {
    resume(py, woken_by(wakes))
}

fn woken_by(wakes: impl FnOnce()) -> Vec<Arc<Sleeper>> {
    /// Puts back what was there, however `wakes` ends.
    struct Outer(Option<Vec<Arc<Sleeper>>>);
    impl Drop for Outer {
        fn drop(&mut self) {
            WOKEN.set(self.0.take());
        }
    }
    let _outer = Outer(WOKEN.replace(Some(Vec::new())));
    wakes();
    WOKEN.take().unwrap_or_default()
}

fn resume(py: Python<'_>, mut woken: Vec<Arc<Sleeper>>) -> PyResult<()> {
    let mut interrupted = Ok(());
    while let Some(first) = woken.first() {
        let event_loop = first.event_loop.clone_ref(py);
        let same;
        (same, woken) = woken.into_iter().partition(|sleeper| sleeper.event_loop.is(&event_loop));
        match resume_all(py, &same) {
            Ok(()) => {}
            Err(_) if is_closed(event_loop.bind(py)) => {
                // What one of them was woken for, another one may have to be.
                woken.extend(woken_by(|| same.iter().for_each(|sleeper| (sleeper.lost)())));
            }
            Err(error) => {
                // No room left on the stack, or interrupted: they must be woken all the same.
                wake_elsewhere(same);
                if !error.is_instance_of::<PyException>(py) {
                    interrupted = Err(error);
                }
            }
        }
    }
    interrupted
}

/// Resumes tasks of one event loop. Always at a later turn of the loop: nothing of theirs runs on
/// the stack of who wakes them.
fn resume_all(py: Python<'_>, sleepers: &[Arc<Sleeper>]) -> PyResult<()> {
    let Some(first) = sleepers.first() else { return Ok(()) };
    let futures = PyList::new(py, sleepers.iter().map(|sleeper| &sleeper.future))?;
    let resume = loading(py)?.getattr(name!(py, "resume"))?;
    let event_loop = first.event_loop.bind(py);
    event_loop.call_method1(name!(py, "call_soon_threadsafe"), (resume, futures))?;
    Ok(())
}

fn wake_elsewhere(sleepers: Vec<Arc<Sleeper>>) {
    complete(async move {
        yield_once().await; // to a thread of the runtime's
        Python::attach(|py| {
            if let Err(error) = resume_all(py, &sleepers) {
                error.write_unraisable(py, None);
            }
        });
    });
}

fn is_closed(event_loop: &Bound<'_, PyAny>) -> bool {
    let closed = event_loop.call_method0(name!(event_loop.py(), "is_closed"));
    closed.is_ok_and(|closed| closed.is_truthy().unwrap_or(false))
}

/// Python's asyncio.
pub fn asyncio(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static ASYNCIO: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let asyncio = ASYNCIO.get_or_try_init(py, || py.import("asyncio").map(Bound::unbind))?;
    Ok(asyncio.bind(py))
}
