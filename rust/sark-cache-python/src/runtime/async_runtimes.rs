//! The adapter that lets pyo3-async-runtimes use the background runtime.

use crate::runtime::tokio_runtime::spawn_task;
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{ContextExt, JoinError, Runtime};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// The background runtime, for pyo3-async-runtimes.
pub struct ForkAware;

/// The error of a task that panicked or was aborted.
pub struct Failure(tokio::task::JoinError);

impl JoinError for Failure {
    fn is_panic(&self) -> bool {
        self.0.is_panic()
    }
    fn into_panic(self) -> Box<dyn std::any::Any + Send + 'static> {
        self.0.into_panic()
    }
}

/// A task of the runtime; `None` if no runtime was available.
pub struct Handle(Option<JoinHandle<()>>);

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
        // It runs with forks excluded: the first task to deliver a result creates the interned strings
        // of pyo3-async-runtimes, which all later tasks need.
        Handle(spawn_task(future))
    }

    fn spawn_blocking<F: FnOnce() + Send + 'static>(function: F) -> Handle {
        // It blocks only to take the GIL and deliver a result, for microseconds: too short to need
        // threads of its own.
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
