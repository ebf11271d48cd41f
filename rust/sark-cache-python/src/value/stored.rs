//! A stored value: its bytes and, once it was asked for, its shared [`Decision`].

use crate::error::Fault;
use crate::value::decision::{Decision, snapshot};
use crate::value::deferred_drop::Deferred;
use crate::value::format::DICT;
use crate::value::template;
use pyo3::prelude::*;
use std::sync::{Arc, OnceLock};

/// A JSON value, stored.
pub struct Stored {
    bytes: Arc<[u8]>,
    /// Made when it is first asked for, and shared from then on.
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

    /// The bytes it is stored as.
    #[inline]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Returns true if it is a JSON object.
    pub fn is_object(&self) -> bool {
        self.bytes.first() == Some(&DICT)
    }

    /// Rebuilds the value: a new object, all the way down.
    #[inline]
    pub fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        template::rebuild(py, &self.bytes)
    }

    /// The value, a mapping, as an object that everybody shares.
    #[inline]
    pub fn decision<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Decision>> {
        if let Some(decision) = self.decision.get() {
            return Ok(decision.get(py));
        }
        let decision = Decision::new(py, Arc::clone(&self.bytes))?;
        // Not made under the lock: to make it may run the garbage collector, and so anything.
        let _ = self.decision.set(Deferred::new(decision.clone().unbind()));
        Ok(self.decision.get().map_or(decision, |first| first.get(py)))
    }
}
