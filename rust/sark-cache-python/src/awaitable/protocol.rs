//! The parts of the coroutine protocol that all awaitables share.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// The error message of a second `await`.
pub const AWAITED_TWICE: &str = "cannot reuse already awaited coroutine";

/// Returns the exception that `throw(value)` or `throw(type, value, traceback)` has to raise.
pub fn thrown(args: &Bound<'_, PyTuple>) -> PyErr {
    let argument = |at| args.get_item(at).ok().filter(|given| !given.is_none());
    match (argument(0), argument(1)) {
        (Some(exception), None) => PyErr::from_value(exception),
        (Some(kind), Some(value)) => match value.is_instance(&kind) {
            Ok(true) => PyErr::from_value(value),
            Ok(false) => kind.call1((value,)).map_or_else(|error| error, PyErr::from_value),
            Err(error) => error,
        },
        (None, _) => pyo3::exceptions::PyTypeError::new_err("throw() takes an exception"),
    }
}
