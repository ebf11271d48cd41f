//! The cache that a load is for.

use crate::error::Fault;
use pyo3::prelude::*;
use sark_cache_core::metrics::Stats;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The switch of a cache: off, it neither serves nor stores decisions.
pub struct Switch {
    pub enabled: AtomicBool,
    pub closed: AtomicBool,
}

impl Switch {
    pub fn new(enabled: bool) -> Self {
        Self { enabled: enabled.into(), closed: false.into() }
    }

    /// Returns whether the cache is enabled and not closed.
    #[inline]
    pub fn serves(&self) -> bool {
        self.enabled.load(Ordering::Relaxed) && !self.closed.load(Ordering::Acquire)
    }
}

/// Counts a fault in `errors` and logs it through the Python object; raises errors of the caller.
pub type Report = fn(&Bound<'_, PyAny>, &Stats, &str, Fault) -> PyResult<()>;

/// The handling of decisions that cannot be stored.
#[derive(Clone, Copy)]
pub enum OnFault {
    /// The request raises the fault.
    Raise,
    /// The fault is reported, and the request still gets its decision.
    Report(Report),
}

/// The cache that a load is for.
pub struct Owner {
    /// The Python object.
    pub object: Py<PyAny>,
    pub switch: Arc<Switch>,
    pub on_fault: OnFault,
}
