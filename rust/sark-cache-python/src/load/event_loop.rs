//! The operations on asyncio's event loops that tasks and loads need.

use crate::python_modules::asyncio;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::time::Duration;

/// Returns true if an event loop runs. An event loop that does not run may be closed, or may run
/// again later.
pub fn runs(event_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
    event_loop.call_method0(interned!(event_loop.py(), "is_running"))?.is_truthy()
}

/// Returns the event loop that runs in this thread, or an error if there is none.
pub fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    asyncio(py)?.call_method0(interned!(py, "get_running_loop"))
}

/// Returns true if an event loop is closed. It never runs again.
pub fn is_closed(event_loop: &Bound<'_, PyAny>) -> bool {
    let closed = event_loop.call_method0(interned!(event_loop.py(), "is_closed"));
    closed.is_ok_and(|closed| closed.is_truthy().unwrap_or(false))
}

/// Makes the running event loop call `function` after a delay.
pub fn call_later(
    event_loop: &Bound<'_, PyAny>,
    delay: Duration,
    function: &Bound<'_, PyAny>,
) -> PyResult<()> {
    // In an empty context: otherwise the caller's context would be kept until the call.
    let py = event_loop.py();
    let options = PyDict::new(py);
    let empty = py.import(interned!(py, "contextvars"))?.call_method0(interned!(py, "Context"))?;
    options.set_item(interned!(py, "context"), empty)?;
    event_loop.call_method(
        interned!(py, "call_later"),
        (delay.as_secs_f64(), function),
        Some(&options),
    )?;
    Ok(())
}
