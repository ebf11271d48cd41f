//! asyncio's tasks as the callers and leaders of loads, and the check whether a task still runs.
//!
//! References to tasks and event loops are weak. A task holds its request, and the request holds
//! its place in a load. Strong references would keep an abandoned task alive.

use crate::load::event_loop::{running_loop, runs};
use crate::python_modules::{asyncio, waiting};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyWeakrefMethods, PyWeakrefReference};
use sark_cache_core::single_flight::Caller;
use std::sync::Arc;

/// A task of an event loop that makes a request, or leads its load.
#[derive(Clone)]
pub struct Task(Arc<Known>);

struct Known {
    /// The address of the task. `None` if no task runs, as in a coroutine that is driven by hand.
    id: Option<u64>,
    /// The address of its event loop, 0 if none runs.
    event_loop: usize,
    /// A weak reference to the task, or to its event loop if the task is not created yet.
    reference: Option<Py<PyWeakrefReference>>,
}

impl Caller for Task {
    fn id(&self) -> Option<u64> {
        self.0.id
    }
}

impl Task {
    /// Returns the task that runs.
    pub fn current(py: Python<'_>) -> PyResult<Self> {
        let Ok(event_loop) = running_loop(py) else { return Ok(Self::unknown()) };
        let current = asyncio(py)?.call_method1(interned!(py, "current_task"), (&event_loop,))?;
        let task = (!current.is_none()).then_some(&current);
        Self::new(&event_loop, task)
    }

    /// Returns a task that the running event loop is about to create.
    pub fn to_be_created(py: Python<'_>) -> PyResult<Self> {
        running_loop(py).map_or_else(|_| Ok(Self::unknown()), |running| Self::new(&running, None))
    }

    fn unknown() -> Self {
        Self(Arc::new(Known { id: None, event_loop: 0, reference: None }))
    }

    fn new(event_loop: &Bound<'_, PyAny>, task: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        // An event loop that allows no weak references counts as one that runs.
        let reference = PyWeakrefReference::new(task.unwrap_or(event_loop));
        let reference = if task.is_some() { Some(reference?) } else { reference.ok() };
        Ok(Self(Arc::new(Known {
            id: task.map(address),
            event_loop: event_loop.as_ptr() as usize,
            reference: reference.map(Bound::unbind),
        })))
    }

    /// Returns true if both tasks belong to the same event loop.
    pub fn is_in_loop_of(&self, other: &Self) -> bool {
        self.0.event_loop == other.0.event_loop
    }

    /// Returns true if the task can run: it is not done, and its event loop runs.
    pub fn can_run(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(reference) = &self.0.reference else { return Ok(true) };
        let Some(referent) = reference.bind(py).upgrade() else { return Ok(false) };
        if self.0.id.is_none() {
            return runs(&referent);
        }
        if referent.call_method0(interned!(py, "done"))?.is_truthy()? {
            return Ok(false);
        }
        runs(&referent.call_method0(interned!(py, "get_loop"))?)
    }

    /// Returns the tasks that this task waits for, as far as asyncio shows them.
    ///
    /// Returns none for a task of another event loop, because it can change during the search.
    pub fn waits_for(&self, py: Python<'_>) -> Vec<Self> {
        self.find_awaited(py).unwrap_or_default()
    }

    fn find_awaited(&self, py: Python<'_>) -> PyResult<Vec<Self>> {
        let Some(reference) = self.0.reference.as_ref().filter(|_| self.0.id.is_some()) else {
            return Ok(Vec::new());
        };
        let Some(task) = reference.bind(py).upgrade() else { return Ok(Vec::new()) };
        let event_loop = running_loop(py)?;
        if event_loop.as_ptr() as usize != self.0.event_loop {
            return Ok(Vec::new());
        }
        let awaited = waiting(py)?.call_method1(interned!(py, "awaited_by"), (task,))?;
        let awaited = awaited.cast::<PyList>()?;
        awaited.iter().map(|task| Self::new(&event_loop, Some(&task))).collect()
    }
}

fn address(task: &Bound<'_, PyAny>) -> u64 {
    task.as_ptr() as usize as u64
}
