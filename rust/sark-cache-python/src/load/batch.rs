//! The requests of a batch: one task leads the loads of all that missed.

use super::{Answer, Load, LoadRequest, State};
use crate::load::task::Task;
use crate::load::wake::wake_batched;
use pyo3::prelude::*;
use sark_cache_core::single_flight::Joined;

impl Load {
    /// Begins a request of a batch, whose misses one task leads together.
    ///
    /// Leads the load of its decision, or has its answer, or is idle. An idle request must be driven
    /// by a task of its own: the task of the batch would seem to wait for what it leads.
    pub fn of_batch(py: Python<'_>, request: LoadRequest, caller: &Task) -> PyResult<Self> {
        let load = Self::new(request, false, State::Idle);
        if load.request.owner.switch.serves() {
            let state = match load.join_as(caller, |_| false) {
                Joined::Found(entry) => State::Answered(Answer::Found(entry)),
                Joined::Lead(leader) => State::Leads(leader),
                Joined::Wait(waiter) => {
                    wake_batched(py, || drop(waiter))?;
                    State::Idle
                }
                Joined::TooManyLoads => State::Idle,
            };
            *load.lock() = state;
        }
        Ok(load)
    }
}
