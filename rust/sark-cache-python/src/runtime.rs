//! Where pending operations are finished: a tokio runtime that starts on first need, starts anew in
//! a forked child, and ends before the interpreter does.
//!
//! A runtime's threads do not survive `fork()`, and its locks may be held by a thread that is gone.
//! So a child never touches its parent's runtime: it is left where it is and a new one is made.
//! What the runtime's threads do to a cache happens inside a [`Gated`] poll, and a fork waits until
//! no such poll is under way: the child's copy of a cache is never half changed.

use arc_swap::ArcSwapOption;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{ContextExt, JoinError, Runtime};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// How long the interpreter's exit waits for operations that are under way.
const EXIT_GRACE: Duration = Duration::from_secs(1);
const WORKERS: usize = 2;

static CURRENT: ArcSwapOption<Started> = ArcSwapOption::const_empty();
static EXITING: AtomicBool = AtomicBool::new(false);

struct Started {
    process: u32,
    runtime: tokio::runtime::Runtime,
}

/// The runtime of this process, started if need be.
fn started() -> PyResult<Arc<Started>> {
    loop {
        let current = CURRENT.load_full();
        if EXITING.load(Ordering::Acquire) {
            return Err(PyRuntimeError::new_err("sark_cache: the interpreter is shutting down"));
        }
        if let Some(started) = &current
            && started.process == std::process::id()
        {
            return Ok(Arc::clone(started));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("sark-cache")
            .enable_all()
            .build()
            .map_err(|error| {
                PyRuntimeError::new_err(format!("sark_cache: cannot start its threads: {error}"))
            })?;
        let new = Arc::new(Started { process: std::process::id(), runtime });
        let previous = CURRENT.compare_and_swap(&current, Some(Arc::clone(&new)));
        let previous = Option::clone(&previous);
        if previous.as_ref().map(Arc::as_ptr) == current.as_ref().map(Arc::as_ptr) {
            // A parent's runtime: to drop it would be to wait for threads that are not here.
            std::mem::forget(previous);
            std::mem::forget(current);
            return Ok(new);
        }
        if let Some(lost) = Arc::into_inner(new) {
            lost.runtime.shutdown_background();
        }
    }
}

/// Finishes `future` on the runtime, whether anybody waits for it or not.
pub fn spawn<F>(future: F) -> PyResult<tokio::sync::oneshot::Receiver<F::Output>>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (done, outcome) = tokio::sync::oneshot::channel();
    started()?.runtime.spawn(async move {
        // Nobody waiting is no fault: the operation was handed over so that it gets done.
        let _ = done.send(Gated(Box::pin(future)).await);
    });
    Ok(outcome)
}

/// The runtime as pyo3-async-runtimes takes it.
pub struct ForkAware;

pub struct Failure(tokio::task::JoinError);

impl JoinError for Failure {
    fn is_panic(&self) -> bool {
        self.0.is_panic()
    }
    fn into_panic(self) -> Box<dyn std::any::Any + Send + 'static> {
        self.0.into_panic()
    }
}

/// A task of the runtime, or nothing when the interpreter is on its way out.
pub struct Handle(Option<tokio::task::JoinHandle<()>>);

impl Future for Handle {
    type Output = Result<(), Failure>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(handle) => Pin::new(handle).poll(context).map_err(Failure),
            None => Poll::Ready(Ok(())),
        }
    }
}

tokio::task_local! {
    static LOCALS: TaskLocals;
}

impl Runtime for ForkAware {
    type JoinError = Failure;
    type JoinHandle = Handle;

    fn spawn<F: Future<Output = ()> + Send + 'static>(future: F) -> Handle {
        Handle(started().ok().map(|started| started.runtime.spawn(future)))
    }

    fn spawn_blocking<F: FnOnce() + Send + 'static>(function: F) -> Handle {
        Handle(started().ok().map(|started| started.runtime.spawn_blocking(function)))
    }
}

impl ContextExt for ForkAware {
    fn scope<F, R>(locals: TaskLocals, future: F) -> Pin<Box<dyn Future<Output = R> + Send>>
    where
        F: Future<Output = R> + Send + 'static,
    {
        Box::pin(LOCALS.scope(locals, future))
    }

    fn get_task_locals() -> Option<TaskLocals> {
        LOCALS.try_with(TaskLocals::clone).ok()
    }
}

/// The number of gated polls under way, and a bit that is set while a fork waits or happens.
static GATE: AtomicUsize = AtomicUsize::new(0);
const FORKING: usize = 1 << (usize::BITS - 1);

/// A future that is not polled while the process forks.
struct Gated<F>(Pin<Box<F>>);

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _pass = Pass::enter();
        self.0.as_mut().poll(context)
    }
}

struct Pass;

impl Pass {
    fn enter() -> Self {
        loop {
            let state = GATE.load(Ordering::Acquire);
            if state & FORKING == 0
                && GATE
                    .compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            {
                return Self;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        GATE.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits for the polls under way, a millisecond at most each, and keeps new ones out.
#[pyfunction]
fn before_fork() {
    GATE.fetch_or(FORKING, Ordering::AcqRel);
    while GATE.load(Ordering::Acquire) != FORKING {
        std::thread::yield_now();
    }
}

#[pyfunction]
fn after_fork() {
    GATE.fetch_and(!FORKING, Ordering::AcqRel);
}

/// Ends the runtime while Python still runs, so that no thread of ours outlives the interpreter.
#[pyfunction]
fn at_exit(py: Python<'_>) {
    EXITING.store(true, Ordering::Release);
    let Some(started) = CURRENT.swap(None) else { return };
    if started.process != std::process::id() {
        std::mem::forget(started);
        return;
    }
    // Detached: what is under way may need the interpreter to finish.
    py.detach(|| {
        let mut started = started;
        loop {
            match Arc::try_unwrap(started) {
                Ok(ended) => break ended.runtime.shutdown_timeout(EXIT_GRACE),
                // Somebody is just spawning something.
                Err(shared) => started = shared,
            }
            std::thread::yield_now();
        }
    });
}

/// Registers what has to happen around a fork and at exit. Starts nothing.
pub fn register_hooks(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let at_exit = wrap_pyfunction!(at_exit, module)?;
    py.import("atexit")?.call_method1("register", (at_exit,))?;
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let after = wrap_pyfunction!(after_fork, module)?;
        let hooks = pyo3::types::PyDict::new(py);
        hooks.set_item("before", wrap_pyfunction!(before_fork, module)?)?;
        hooks.set_item("after_in_parent", &after)?;
        hooks.set_item("after_in_child", after)?;
        os.call_method("register_at_fork", (), Some(&hooks))?;
    }
    Ok(())
}
