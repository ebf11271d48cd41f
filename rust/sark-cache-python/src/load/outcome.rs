//! The outcome of a load, as all requests that waited for it get it.

use crate::value::Stored;
use pyo3::prelude::*;
use pyo3::types::PyTraceback;
use std::sync::Arc;

/// The outcome of a load, for its waiters.
pub enum Outcome {
    Value(Stored),
    /// The value cannot be copied, so each waiter evaluates.
    NotShared,
    /// The exception and its traceback at that moment. Each task that raises it adds to it.
    Raised(PyErr, Option<Py<PyTraceback>>),
}

pub type SharedOutcome = Arc<Outcome>;
