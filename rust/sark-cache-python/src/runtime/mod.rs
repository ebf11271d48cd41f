//! Where pending operations are finished: a tokio runtime that starts on first need, starts anew in
//! a forked child, and ends before the interpreter does.
//!
//! A runtime's threads do not survive `fork()`, and its locks may be held by a thread that is gone.
//! So a child never touches its parent's runtime: it is left where it is and a new one is made.
//! What the runtime's threads do to a cache happens inside a [`Gated`] poll, and a fork waits until
//! no such poll is under way: the child's copy of a cache is never half changed.

use arc_swap::ArcSwapOption;
use pyo3::prelude::*;
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{ContextExt, JoinError, Runtime};
use sark_cache_core::ready::{Polled, poll_or_keep};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the interpreter's exit waits for operations that are under way.
const EXIT_GRACE: Duration = Duration::from_secs(1);
const WORKERS: usize = 2;

static CURRENT: ArcSwapOption<Started> = ArcSwapOption::const_empty();
static EXITING: AtomicBool = AtomicBool::new(false);
/// Counts the forks on the way to this process: what was begun before one is not finished after it.
static GENERATION: AtomicU64 = AtomicU64::new(0);

struct Started {
    process: u32,
    runtime: tokio::runtime::Runtime,
}

/// The number of forks between the first process and this one.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// The runtime of this process, started if need be; `None` if the interpreter is on its way out or
/// the system allows no more threads.
fn started() -> Option<Arc<Started>> {
    loop {
        let current = CURRENT.load_full();
        if EXITING.load(Ordering::Acquire) {
            return None;
        }
        if let Some(started) = &current
            && started.process == std::process::id()
        {
            return Some(Arc::clone(started));
        }
        let new = Arc::new(Started { process: std::process::id(), runtime: build()? });
        let previous = CURRENT.compare_and_swap(&current, Some(Arc::clone(&new)));
        let previous = Option::clone(&previous);
        if previous.as_ref().map(Arc::as_ptr) == current.as_ref().map(Arc::as_ptr) {
            // A parent's runtime: to drop it would be to wait for threads that are not here.
            std::mem::forget(previous);
            std::mem::forget(current);
            return Some(new);
        }
        if let Some(lost) = Arc::into_inner(new) {
            lost.runtime.shutdown_background();
        }
    }
}

fn build() -> Option<tokio::runtime::Runtime> {
    // tokio panics where the system refuses a thread, so the system is asked first.
    std::thread::Builder::new().spawn(|| {}).ok()?.join().ok()?;
    let build = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("sark-cache")
            .on_thread_start(step_back)
            .build()
    };
    std::panic::catch_unwind(build).ok()?.ok()
}

/// Lets the threads that serve requests go first, where the system can be told so.
///
/// Else a thread of ours that is woken may take the processor from the one that woke it, an event
/// loop's: of the invalidations in a cache of a million entries one in three returned a millisecond
/// late.
fn step_back() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{
            NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
            set_thread_priority_and_policy, thread_native_id,
        };
        /// Of 99: a niceness of 4.
        const PRIORITY: u8 = 37;
        let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        if let Ok(priority) = ThreadPriority::try_from(PRIORITY) {
            // Not allowed, it goes on as it is.
            let _ = set_thread_priority_and_policy(thread_native_id(), priority, batch);
        }
    }
}

/// Finishes `future` on the runtime, whether anybody waits for it or not; gives it back where there
/// is no runtime to be had.
pub fn spawn<F>(future: Pin<Box<F>>) -> Result<oneshot::Receiver<F::Output>, Pin<Box<F>>>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let Some(started) = started() else { return Err(future) };
    let (done, outcome) = oneshot::channel();
    started.runtime.spawn(async move {
        // Nobody waiting is no fault: the operation was handed over so that it gets done.
        let _ = done.send(Gated(future).await);
    });
    Ok(outcome)
}

/// Begins `future` here and sees to it that it is finished.
pub fn complete(future: impl Future<Output: Send + 'static> + Send + 'static) {
    if let Polled::Pending(future) = poll_or_keep(future)
        && let Err(future) = spawn(future)
    {
        finish_here(future);
    }
}

/// Finishes `future` on this thread. For where there is no other: what it waits for is done by
/// threads that need nothing of this one, or by itself at its next poll.
pub fn finish_here<F: Future>(mut future: Pin<Box<F>>) -> F::Output {
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
pub fn finish_detached<F>(
    py: Python<'_>,
    mut future: Pin<&mut F>,
    help: impl Fn() + Sync,
) -> F::Output
where
    F: Future<Output: Send> + Send,
{
    let mut poll = || {
        let _pass = Pass::enter();
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
        // Gated, because the first one to hand over a result makes strings for all who follow.
        let future = Gated(Box::pin(future));
        Handle(started().map(|started| started.runtime.spawn(future)))
    }

    fn spawn_blocking<F: FnOnce() + Send + 'static>(function: F) -> Handle {
        // What blocks here is taking the GIL to hand over a result: microseconds, too little to
        // start threads for.
        Self::spawn(async move { function() })
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

/// The gated polls under way, and, counted in units of [`FORK`], the forks that wait or happen.
static GATE: AtomicU64 = AtomicU64::new(0);
const FORK: u64 = 1 << 32;

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

thread_local! {
    /// How many passes this thread has: to wait for a fork with one would be to wait for oneself.
    static PASSES: Cell<usize> = const { Cell::new(0) };
}

impl Pass {
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

    fn enter() -> Self {
        loop {
            if let Some(pass) = Self::try_enter() {
                return pass;
            }
            std::thread::yield_now();
        }
    }
}

/// Does what a fork must not come in the middle of. It must not fork itself.
pub fn undivided<T>(py: Python<'_>, work: impl FnOnce() -> T) -> T {
    // Detached, or the thread that forks could not go on.
    let _pass = Pass::try_enter().unwrap_or_else(|| py.detach(Pass::enter));
    work()
}

impl Drop for Pass {
    fn drop(&mut self) {
        PASSES.set(PASSES.get() - 1);
        if PASSES.get() == 0 {
            GATE.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Keeps new polls out and waits for those under way: a turn of a sweep each.
#[pyfunction]
fn before_fork(py: Python<'_>) {
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
fn after_fork_in_parent() {
    GATE.fetch_sub(FORK, Ordering::AcqRel);
}

/// The child has one thread: no poll is under way, nobody else forks, and no runtime runs.
#[pyfunction]
fn after_fork_in_child() {
    GATE.store(0, Ordering::Release);
    GENERATION.fetch_add(1, Ordering::AcqRel);
    std::mem::forget(CURRENT.swap(None));
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
        let hooks = pyo3::types::PyDict::new(py);
        hooks.set_item("before", wrap_pyfunction!(before_fork, module)?)?;
        hooks.set_item("after_in_parent", wrap_pyfunction!(after_fork_in_parent, module)?)?;
        hooks.set_item("after_in_child", wrap_pyfunction!(after_fork_in_child, module)?)?;
        os.call_method("register_at_fork", (), Some(&hooks))?;
    }
    Ok(())
}
