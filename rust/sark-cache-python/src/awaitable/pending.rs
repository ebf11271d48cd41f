//! An awaitable for an operation that the runtime is finishing.
//!
//! pyo3-async-runtimes makes it an asyncio future when it is first awaited. The operation continues
//! even if nothing awaits it.

use crate::awaitable::protocol::{AWAITED_TWICE, thrown};
use crate::runtime::async_runtimes::ForkAware;
use crate::runtime::fork_guard::{fork_excluded, generation};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::future_into_py_with_locals;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

type Begin =
    Box<dyn for<'py> FnOnce(Python<'py>, TaskLocals) -> PyResult<Bound<'py, PyAny>> + Send>;

enum State {
    /// Not awaited yet. The function creates the asyncio future, in a running event loop.
    New(Begin),
    /// The asyncio future, and its iterator.
    Awaited(Py<PyAny>, Py<PyAny>),
    Done,
}

/// An awaitable for an operation that the runtime is finishing.
#[pyclass(frozen, module = "sark_cache._native")]
pub struct Pending {
    state: Mutex<State>,
    generation: u64,
}

impl Pending {
    /// Returns an awaitable for the result that the runtime sends to `outcome`.
    pub fn start<T>(
        py: Python<'_>,
        outcome: oneshot::Receiver<PyResult<T>>,
    ) -> PyResult<Bound<'_, PyAny>>
    where
        T: for<'a> IntoPyObject<'a> + Send + 'static,
    {
        let begin: Begin = Box::new(move |py, locals| {
            future_into_py_with_locals::<ForkAware, _, T>(py, locals, async move {
                outcome.await.unwrap_or_else(|_| {
                    Err(PyRuntimeError::new_err(
                        "sark_cache: the operation ended without a result: repeat it",
                    ))
                })
            })
        });
        let pending = Self { state: Mutex::new(State::New(begin)), generation: generation() };
        Ok(Bound::new(py, pending)?.into_any())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> State {
        std::mem::replace(&mut *self.lock(), State::Done)
    }

    /// Returns true if a task awaits it and has not been woken yet.
    fn is_waiting(&self, py: Python<'_>) -> PyResult<bool> {
        let future = match &*self.lock() {
            State::Awaited(future, _) => future.clone_ref(py),
            State::New(_) | State::Done => return Ok(false),
        };
        Ok(!future.bind(py).call_method0(interned!(py, "done"))?.is_truthy()?)
    }

    /// Takes one step of the asyncio future. The state is outside its lock during the step, so a
    /// step that runs other code cannot lock it twice.
    fn step<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.generation != generation() {
            return Err(PyRuntimeError::new_err(
                "sark_cache: this operation was started before a fork, so only the parent process \
                 can await it: start another one",
            ));
        }
        if self.is_waiting(py)? {
            // Another task awaits it, perhaps in another event loop. That task is not affected.
            return Err(PyRuntimeError::new_err("coroutine is being awaited already"));
        }
        let (future, iterator) = match self.take() {
            State::New(begin) => {
                let locals =
                    TaskLocals::with_running_loop(py).and_then(|locals| locals.copy_context(py));
                let locals = match locals {
                    Ok(locals) => locals,
                    Err(error) => {
                        // It can still be awaited in a running event loop.
                        *self.lock() = State::New(begin);
                        return Err(error);
                    }
                };
                let future = fork_excluded(py, || begin(py, locals))?;
                let iterator = future.call_method0(interned!(py, "__await__"))?;
                (future, iterator)
            }
            State::Awaited(future, iterator) => (future.into_bound(py), iterator.into_bound(py)),
            State::Done => return Err(PyRuntimeError::new_err(AWAITED_TWICE)),
        };
        let stepped = iterator.call_method0(interned!(py, "__next__"));
        if stepped.is_ok() {
            *self.lock() = State::Awaited(future.unbind(), iterator.unbind());
        }
        stepped
    }
}

#[pymethods]
impl Pending {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.step(py)
    }

    fn send<'py>(
        &self,
        py: Python<'py>,
        _value: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.__next__(py)
    }

    #[pyo3(signature = (*args))]
    fn throw<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.take() {
            State::Awaited(_, iterator) => {
                iterator.bind(py).call_method1(interned!(py, "throw"), (thrown(args),))
            }
            State::New(_) => Err(thrown(args)),
            State::Done => Err(PyRuntimeError::new_err(AWAITED_TWICE)),
        }
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let State::Awaited(_, iterator) = self.take() {
            iterator.bind(py).call_method0(interned!(py, "close"))?;
        }
        Ok(())
    }

    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        // If a running thread holds the lock, nothing here is garbage.
        if let Ok(state) = self.state.try_lock()
            && let State::Awaited(future, iterator) = &*state
        {
            visit.call(future)?;
            visit.call(iterator)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.take();
    }
}
