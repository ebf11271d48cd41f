//! The tokio runtime of this process.

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

/// How long the interpreter's exit waits for operations that are under way.
const EXIT_GRACE: Duration = Duration::from_secs(1);
const WORKERS: usize = 2;

static CURRENT: ArcSwapOption<Started> = ArcSwapOption::const_empty();
static EXITING: AtomicBool = AtomicBool::new(false);

struct Started {
    process: u32,
    runtime: tokio::runtime::Runtime,
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
            .on_thread_start(lower_priority)
            .build()
    };
    std::panic::catch_unwind(build).ok()?.ok()
}

/// Lets the threads that serve requests go first, where the system can be told so.
///
/// Else a thread of ours that is woken may take the processor from the one that woke it, an event
/// loop's: of the invalidations in a cache of a million entries one in three returned a millisecond
/// late.
fn lower_priority() {
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
        let _ = done.send(ForkExcluded(future).await);
    });
    Ok(outcome)
}

/// Runs `future` on the runtime; `None` where there is no runtime to be had.
pub fn spawn_task(future: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
    Some(started()?.runtime.spawn(ForkExcluded(Box::pin(future))))
}

/// Leaves the parent's runtime where it is: its threads are not in the child.
pub fn forget_in_child() {
    std::mem::forget(CURRENT.swap(None));
}

/// Ends the runtime while Python still runs, so that no thread of ours outlives the interpreter.
#[pyfunction]
pub fn at_exit(py: Python<'_>) {
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
