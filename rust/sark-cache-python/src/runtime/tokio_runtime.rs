//! The tokio runtime of this process: started at first use, stopped at exit.

use crate::runtime::fork_guard::ForkExcluded;
use arc_swap::ArcSwapOption;
use pyo3::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The longest time that the exit of the interpreter waits for running operations.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// The number of threads.
const WORKERS: usize = 2;

static CURRENT: ArcSwapOption<Started> = ArcSwapOption::const_empty();
static EXITING: AtomicBool = AtomicBool::new(false);

/// A runtime and the process that started it.
struct Started {
    process: u32,
    runtime: tokio::runtime::Runtime,
}

/// Returns the runtime of this process, which it starts if there is none. Returns `None` if the
/// interpreter is exiting or the system allows no more threads.
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
            // The runtime of the parent: dropping it would wait for threads that do not exist here.
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
    // tokio panics if the system refuses a thread, so a thread is started and joined first.
    std::thread::Builder::new().spawn(|| {}).ok()?.join().ok()?;
    let build = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("sark-cache")
            .on_thread_start(lower_priority)
            .build()
    };
    std::panic::catch_unwind(build).ok()?.ok()
}

/// Lowers the priority of this thread below that of threads that serve requests; Linux only.
///
/// Without it, a background thread may take the processor from the event loop that woke it: of the
/// invalidations in a cache of a million entries, one in three returned a millisecond late.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{
            NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
            set_thread_priority_and_policy, thread_native_id,
        };
        /// A priority of 37 in 0–99 is a niceness of 4.
        const PRIORITY: u8 = 37;
        let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        if let Ok(priority) = ThreadPriority::try_from(PRIORITY) {
            // If the system refuses, the thread keeps its priority.
            let _ = set_thread_priority_and_policy(thread_native_id(), priority, batch);
        }
    }
}

/// Runs `future` to completion on the runtime, even if the receiver is dropped. Returns the future if
/// no runtime is available.
pub fn spawn<F>(future: Pin<Box<F>>) -> Result<oneshot::Receiver<F::Output>, Pin<Box<F>>>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let Some(started) = started() else { return Err(future) };
    let (done, outcome) = oneshot::channel();
    started.runtime.spawn(async move {
        // An error if the receiver was dropped. The operation had to be finished nevertheless.
        let _ = done.send(ForkExcluded(future).await);
    });
    Ok(outcome)
}

/// Runs `future` on the runtime. Returns `None` if no runtime is available.
pub fn spawn_task(future: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
    Some(started()?.runtime.spawn(ForkExcluded(Box::pin(future))))
}

/// Leaks the runtime of the parent, whose threads the child does not have.
pub fn forget_in_child() {
    std::mem::forget(CURRENT.swap(None));
}

/// Stops the runtime before the interpreter ends, so that none of its threads outlives it.
#[pyfunction]
pub fn at_exit(py: Python<'_>) {
    EXITING.store(true, Ordering::Release);
    let Some(started) = CURRENT.swap(None) else { return };
    if started.process != std::process::id() {
        std::mem::forget(started);
        return;
    }
    // Detached: a running operation may need the interpreter to finish.
    py.detach(|| {
        let mut started = started;
        loop {
            match Arc::try_unwrap(started) {
                Ok(stopped) => break stopped.runtime.shutdown_timeout(EXIT_GRACE),
                // Another thread is spawning an operation.
                Err(shared) => started = shared,
            }
            std::thread::yield_now();
        }
    });
}
