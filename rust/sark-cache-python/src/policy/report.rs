//! Faults of requests: counted, and logged by the Python class.

use crate::error::Fault;
use crate::policy::store::Instance;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyString;
use sark_cache_core::metrics::Stats;

impl Instance<'_, '_> {
    /// Counts a fault in `errors` and logs it. Raises a fault that is an error of the caller.
    #[cold]
    pub fn report(self, operation: &str, fault: Fault) -> PyResult<()> {
        report(self.object, self.store.cache.stats(), operation, fault)
    }
}

/// Counts a fault in `errors` and logs it with `object._report(operation, reason)`. Raises a fault
/// that is an error of the caller.
#[cold]
pub fn report(
    object: &Bound<'_, PyAny>,
    stats: &Stats,
    operation: &str,
    fault: Fault,
) -> PyResult<()> {
    let py = object.py();
    let reason = fault.reason(py)?;
    stats.counters.errors.increment();
    log(object, interned!(py, "_report"), (operation, reason))
}

/// Calls a method of the Python class that logs. An exception of logging does not fail the request.
pub fn log<'py>(
    object: &Bound<'py, PyAny>,
    method: &Bound<'py, PyString>,
    arguments: impl PyCallArgs<'py>,
) -> PyResult<()> {
    let py = object.py();
    match object.call_method1(method, arguments) {
        Err(error) if error.is_instance_of::<PyException>(py) => {
            error.write_unraisable(py, Some(object));
            Ok(())
        }
        logged => logged.map(drop),
    }
}
