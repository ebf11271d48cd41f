//! Waking asyncio tasks from Rust: all that one event wakes with one call for each event loop.
//!
//! A task waits for an asyncio future that its loop made; a [`Sleeper`] is the waker that ends the
//! wait, from any thread. `call_soon_threadsafe` for a thousand of them costs what it costs for one,
//! and little beside it; a future of pyo3-async-runtimes for each costs 127 µs apiece.

use crate::load::loading;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyModule};
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
            resume(vec![sleeper]);
        }
    }
}

/// Does something that may wake many, and wakes them afterwards, together.
pub fn together(wakes: impl FnOnce()) {
    resume(woken_by(wakes));
}

fn woken_by(wakes: impl FnOnce()) -> Vec<Arc<Sleeper>> {
    let outer = WOKEN.replace(Some(Vec::new()));
    wakes();
    WOKEN.replace(outer).unwrap_or_default()
}

fn resume(mut woken: Vec<Arc<Sleeper>>) {
    while !woken.is_empty() {
        let lost = resume_those_there(woken);
        // What one of them was woken for, another one may have to be.
        woken = woken_by(|| lost.iter().for_each(|sleeper| (sleeper.lost)()));
    }
}

/// Resumes them, loop by loop; returns those whose loop was closed.
fn resume_those_there(mut woken: Vec<Arc<Sleeper>>) -> Vec<Arc<Sleeper>> {
    Python::attach(|py| {
        // The last reference to one who leads may be dropped while an exception is on its way.
        let on_its_way = PyErr::take(py);
        let mut lost = Vec::new();
        while let Some(first) = woken.first() {
            let event_loop = first.event_loop.clone_ref(py);
            let same;
            (same, woken) =
                woken.into_iter().partition(|sleeper| sleeper.event_loop.is(&event_loop));
            if let Err(error) = resume_all(py, event_loop.bind(py), &same) {
                // This is what asyncio raises for a loop that was closed.
                if !error.is_instance_of::<PyRuntimeError>(py) {
                    error.write_unraisable(py, Some(event_loop.bind(py)));
                }
                lost.extend(same);
            }
        }
        if let Some(error) = on_its_way {
            error.restore(py);
        }
        lost
    })
}

fn resume_all(
    py: Python<'_>,
    event_loop: &Bound<'_, PyAny>,
    sleepers: &[Arc<Sleeper>],
) -> PyResult<()> {
    let futures = PyList::new(py, sleepers.iter().map(|sleeper| &sleeper.future))?;
    let resume = loading(py)?.getattr(name!(py, "resume"))?;
    let running = asyncio(py)?.call_method0(name!(py, "get_running_loop"));
    if running.is_ok_and(|running| running.is(event_loop)) {
        resume.call1((futures,))?;
    } else {
        event_loop.call_method1(name!(py, "call_soon_threadsafe"), (resume, futures))?;
    }
    Ok(())
}

/// Python's asyncio.
pub fn asyncio(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static ASYNCIO: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let asyncio = ASYNCIO.get_or_try_init(py, || py.import("asyncio").map(Bound::unbind))?;
    Ok(asyncio.bind(py))
}
