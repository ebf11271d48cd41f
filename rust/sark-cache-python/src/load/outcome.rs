//! The outcome of a load, as all requests that waited for it get it.

use crate::value::Stored;
use pyo3::prelude::*;
use pyo3::types::PyTraceback;
use std::sync::Arc;

/// What a load came to, for everybody who waited for it.
pub enum Outcome {
    Value(Stored),
    /// It cannot be copied, so everybody evaluates.
    NotShared,
    /// With the traceback it had: each one who raises it adds to it.
    Raised(PyErr, Option<Py<PyTraceback>>),
}

pub type SharedOutcome = Arc<Outcome>;
