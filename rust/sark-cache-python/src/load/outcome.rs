//! The outcome of a load, which all requests that waited for it share.

use crate::value::Stored;
use pyo3::prelude::*;
use pyo3::types::PyTraceback;
use std::sync::Arc;

/// The outcome of a load, for its waiters.
pub enum Outcome {
    Value(Stored),
    /// The value cannot be copied, so each waiter evaluates.
    NotShared,
    /// The exception, and its traceback when the loader raised it. Each task that raises the
    /// exception adds to its traceback, so every task starts from this one.
    Raised(PyErr, Option<Py<PyTraceback>>),
}

pub type SharedOutcome = Arc<Outcome>;
