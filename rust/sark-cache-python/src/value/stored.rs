//! A stored value: its bytes and, after the first `get_decision`, its shared [`Decision`].

use crate::error::Fault;
use crate::value::decision::{Decision, snapshot};
use crate::value::decode::Reader;
use crate::value::deferred_drop::Deferred;
use crate::value::format::DICT;
use crate::value::template;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::{Arc, OnceLock};

/// A stored JSON value.
pub struct Stored {
    bytes: Arc<[u8]>,
    /// The shared decision, created for the first `get_decision`.
    decision: OnceLock<Deferred>,
}

impl Clone for Stored {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.bytes))
    }
}

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Stored {
    /// Takes a snapshot of `value`.
    pub fn from_python(value: &Bound<'_, PyAny>) -> Result<Self, Fault> {
        snapshot(value).map(Self::new)
    }

    fn new(bytes: Arc<[u8]>) -> Self {
        Self { bytes, decision: OnceLock::new() }
    }

    /// Returns the stored bytes.
    #[inline]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Returns true if the value is a JSON object.
    pub fn is_object(&self) -> bool {
        self.bytes.first() == Some(&DICT)
    }

    /// Rebuilds the value. It is a new object, and so are all lists and dicts in it.
    #[inline]
    pub fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        template::rebuild(py, &self.bytes)
    }

    /// Returns true if the value is a dict whose field of this name is `True`.
    pub fn is_true(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<bool> {
        Reader::new(&self.bytes).is_true(py, name)
    }

    /// Returns the value, which must be a mapping, as an object that all callers share.
    #[inline]
    pub fn decision<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Decision>> {
        if let Some(decision) = self.decision.get() {
            return Ok(decision.get(py));
        }
        let decision = Decision::new(py, Arc::clone(&self.bytes))?;
        // Created outside of the lock: it may run the garbage collector, and with it any Python
        // code.
        let _ = self.decision.set(Deferred::new(decision.clone().unbind()));
        Ok(self.decision.get().map_or(decision, |first| first.get(py)))
    }
}
