//! Waking asyncio tasks from Rust, with one call per event loop for all tasks that are woken
//! together.
//!
//! A task awaits a [`Wait`], a future in asyncio's sense. A [`LoopWaker`] ends the wait, from any
//! thread. The wakers of one event loop are passed to it together, as one callback. So waking a
//! thousand tasks takes one `call_soon_threadsafe`, and creates no asyncio future or handle per
//! task.
//!
//! # Interrupts
//! Any Python code can raise a `KeyboardInterrupt`, also the code of the event loop. The event loop
//! may be run again afterwards, as notebooks do. So a callback runs no Python code between two
//! wakers except that of the tasks. If a task raises, the callback resumes the other tasks first
//! and raises then. If an interrupt stops the callback before it begins, the tasks are woken again
//! by [`check_waiters`](sark_cache_core::single_flight::Flights::check_waiters).

use crate::load::event_loop::{is_closed, runs};
use crate::runtime::run_in_background;
use pyo3::exceptions::asyncio::{CancelledError, InvalidStateError};
use pyo3::exceptions::{PyException, PyStopIteration};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use sark_cache_core::poll::yield_once;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;

/// The waker of a task that waits for a load.
pub struct LoopWaker {
    event_loop: Py<PyAny>,
    state: Mutex<WaitState>,
    /// Called if the task is woken but its event loop does not run.
    on_loop_down: Box<dyn Fn(LoopDown) + Send + Sync>,
}

/// The reason that a woken task does not run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LoopDown {
    /// Its event loop was closed, so the task never runs.
    Closed,
    /// Its event loop does not run now. The task runs if the loop is run again.
    Stopped,
}

#[derive(Default)]
struct WaitState {
    end: Option<End>,
    callbacks: Callbacks,
}

type Callbacks = SmallVec<[Callback; 1]>;

enum End {
    Woken,
    Cancelled(Option<Py<PyAny>>),
}

struct Callback {
    function: Py<PyAny>,
    context: Option<Py<PyAny>>,
}

thread_local! {
    /// The wakers to be resumed together, while [`wake_batched`] runs.
    static WOKEN: RefCell<Option<Vec<Arc<LoopWaker>>>> = const { RefCell::new(None) };
}

impl LoopWaker {
    /// Creates the waker of a task of `event_loop`.
    pub fn new(
        event_loop: Bound<'_, PyAny>,
        on_loop_down: impl Fn(LoopDown) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (event_loop, on_loop_down) = (event_loop.unbind(), Box::new(on_loop_down));
        Arc::new(Self { event_loop, state: Mutex::default(), on_loop_down })
    }

    /// Returns a future that the task awaits.
    pub fn wait<'py>(self: &Arc<Self>, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let wait = Wait { waker: Arc::clone(self), blocking: AtomicBool::new(false) };
        Ok(Bound::new(py, wait)?.into_any())
    }

    fn lock(&self) -> MutexGuard<'_, WaitState> {
        // No Python code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Ends the wait, unless it has ended, and calls its callbacks. Call it in the thread of the
    /// event loop.
    fn resume(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let mut state = self.lock();
        state.end.get_or_insert(End::Woken);
        let callbacks = mem::take(&mut state.callbacks);
        drop(state);
        let mut interrupted = Ok(());
        for Callback { function, context } in callbacks {
            let wait = self.wait(py)?;
            let called = match context {
                Some(context) => {
                    context.bind(py).call_method1(interned!(py, "run"), (function, wait))
                }
                None => function.bind(py).call1((wait,)),
            };
            match called {
                Ok(_) => {}
                Err(error) if error.is_instance_of::<PyException>(py) => {
                    error.write_unraisable(py, None);
                }
                Err(error) => interrupted = Err(error),
            }
        }
        interrupted
    }
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        let alone = WOKEN.with_borrow_mut(|woken| match woken {
            Some(woken) => {
                woken.push(self);
                None
            }
            None => Some(self),
        });
        if let Some(waker) = alone {
            Python::attach(|py| {
                // The last reference to a leader may be dropped while an exception propagates.
                let propagating = PyErr::take(py);
                if let Err(error) = resume(py, vec![waker]) {
                    error.write_unraisable(py, None);
                }
                if let Some(error) = propagating {
                    error.restore(py);
                }
            });
        }
    }
}

/// The future that a task awaits. It has the methods that asyncio's tasks call.
#[pyclass(frozen, module = "sark_cache._native")]
pub struct Wait {
    waker: Arc<LoopWaker>,
    blocking: AtomicBool,
}

#[pymethods]
impl Wait {
    #[getter(_asyncio_future_blocking)]
    fn blocking(&self) -> bool {
        self.blocking.load(Ordering::Relaxed)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, blocking: bool) {
        self.blocking.store(blocking, Ordering::Relaxed);
    }

    #[getter(_loop)]
    fn event_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.waker.event_loop.clone_ref(py)
    }

    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop(py)
    }

    fn done(&self) -> bool {
        self.waker.ended()
    }

    fn cancelled(&self) -> bool {
        matches!(self.waker.lock().end, Some(End::Cancelled(_)))
    }

    fn result(&self, py: Python<'_>) -> PyResult<()> {
        let message = match &self.waker.lock().end {
            Some(End::Woken) => return Ok(()),
            Some(End::Cancelled(message)) => message.as_ref().map(|message| message.clone_ref(py)),
            None => return Err(InvalidStateError::new_err("the wait has not ended")),
        };
        Err(match message {
            Some(message) => CancelledError::new_err((message,)),
            None => CancelledError::new_err(()),
        })
    }

    fn exception(&self, py: Python<'_>) -> PyResult<()> {
        self.result(py)
    }

    #[pyo3(signature = (function, *, context = None))]
    fn add_done_callback(
        &self,
        py: Python<'_>,
        function: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let mut state = self.waker.lock();
        state.callbacks.push(Callback { function, context });
        let ended = state.end.is_some();
        drop(state);
        if ended { call_soon(py, &self.waker) } else { Ok(()) }
    }

    fn remove_done_callback(&self, py: Python<'_>, function: &Bound<'_, PyAny>) -> PyResult<usize> {
        let callbacks = mem::take(&mut self.waker.lock().callbacks);
        let (mut kept, mut removed) = (Callbacks::new(), Vec::new());
        for callback in callbacks {
            if callback.function.bind(py).eq(function)? {
                removed.push(callback);
            } else {
                kept.push(callback);
            }
        }
        self.waker.lock().callbacks.append(&mut kept);
        Ok(removed.len())
    }

    #[pyo3(signature = (msg = None))]
    fn cancel(&self, py: Python<'_>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let mut state = self.waker.lock();
        if state.end.is_some() {
            return Ok(false);
        }
        state.end = Some(End::Cancelled(msg));
        drop(state);
        call_soon(py, &self.waker)?;
        Ok(true)
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<Self>> {
        let this = slf.get();
        if this.done() {
            this.result(slf.py())?;
            return Err(PyStopIteration::new_err(()));
        }
        this.set_blocking(true);
        Ok(slf.clone().unbind())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A waker that a load holds too is not garbage, nor is one whose lock a running thread
        // holds.
        if Arc::strong_count(&self.waker) == 1
            && let Ok(state) = self.waker.state.try_lock()
        {
            for Callback { function, context } in &state.callbacks {
                visit.call(function)?;
                visit.call(context)?;
            }
            visit.call(&self.waker.event_loop)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let callbacks = mem::take(&mut self.waker.lock().callbacks);
        drop(callbacks);
    }
}

/// The callback with which an event loop resumes its own tasks.
#[pyclass(frozen, module = "sark_cache._native")]
struct Resume(Mutex<Vec<Arc<LoopWaker>>>);

#[pymethods]
impl Resume {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let wakers = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut interrupted = Ok(());
        for waker in wakers {
            if let Err(error) = waker.resume(py) {
                interrupted = Err(error);
            }
        }
        interrupted
    }
}

/// Runs `wakes`, then resumes every task that it woke, with one call per event loop. A returned
/// error is an interrupt or a `SystemExit`, not a failure of the woken tasks.
pub fn wake_batched(py: Python<'_>, wakes: impl FnOnce()) -> PyResult<()> {
    resume(py, collect_wakes(wakes))
}

fn collect_wakes(wakes: impl FnOnce()) -> Vec<Arc<LoopWaker>> {
    /// Restores the wakers of the outer call, also if `wakes` panics.
    struct Outer(Option<Vec<Arc<LoopWaker>>>);
    impl Drop for Outer {
        fn drop(&mut self) {
            WOKEN.set(self.0.take());
        }
    }
    let _outer = Outer(WOKEN.replace(Some(Vec::new())));
    wakes();
    WOKEN.take().unwrap_or_default()
}

fn resume(py: Python<'_>, mut woken: Vec<Arc<LoopWaker>>) -> PyResult<()> {
    let mut interrupted = Ok(());
    while let Some(first) = woken.first() {
        let event_loop = first.event_loop.clone_ref(py);
        let same;
        (same, woken) = woken.into_iter().partition(|waker| waker.event_loop.is(&event_loop));
        match resume_all(py, same.clone()) {
            Ok(()) if runs(event_loop.bind(py)).unwrap_or(true) => {}
            Ok(()) => woken.extend(on_loop_down(&same, LoopDown::Stopped)),
            Err(_) if is_closed(event_loop.bind(py)) => {
                woken.extend(on_loop_down(&same, LoopDown::Closed));
            }
            Err(error) => {
                // The stack is full, or an interrupt came. The tasks must still be woken.
                wake_elsewhere(same);
                if !error.is_instance_of::<PyException>(py) {
                    interrupted = Err(error);
                }
            }
        }
    }
    interrupted
}

/// Calls `on_loop_down` of each waker. Returns the wakers to wake in their place.
fn on_loop_down(wakers: &[Arc<LoopWaker>], why: LoopDown) -> Vec<Arc<LoopWaker>> {
    collect_wakes(|| wakers.iter().for_each(|waker| (waker.on_loop_down)(why)))
}

/// Resumes tasks of one event loop, always in a later iteration of the loop. So their code never
/// runs on the stack of the waking thread.
fn resume_all(py: Python<'_>, wakers: Vec<Arc<LoopWaker>>) -> PyResult<()> {
    let Some(first) = wakers.first() else { return Ok(()) };
    let event_loop = first.event_loop.clone_ref(py);
    let resume = Bound::new(py, Resume(Mutex::new(wakers)))?;
    event_loop.bind(py).call_method1(interned!(py, "call_soon_threadsafe"), (resume,))?;
    Ok(())
}

/// Resumes a task of the running event loop in a later iteration of the loop.
fn call_soon(py: Python<'_>, waker: &Arc<LoopWaker>) -> PyResult<()> {
    let resume = Bound::new(py, Resume(Mutex::new(vec![Arc::clone(waker)])))?;
    let called = waker.event_loop.bind(py).call_method1(interned!(py, "call_soon"), (resume,));
    called.map(drop).inspect_err(|_| wake_elsewhere(vec![Arc::clone(waker)]))
}

/// Resumes tasks from a thread of the background runtime.
fn wake_elsewhere(wakers: Vec<Arc<LoopWaker>>) {
    run_in_background(async move {
        // The first poll is on this thread. The runtime makes the second one.
        yield_once().await;
        Python::attach(|py| {
            if let Err(error) = resume_all(py, wakers) {
                error.write_unraisable(py, None);
            }
        });
    });
}
