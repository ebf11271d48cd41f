//! Python string constants, each created once.

use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::OnceLock;

/// Returns a Python string constant, created at the first use.
///
/// `pyo3::intern!` releases the interpreter while it creates the string. If another thread forks at
/// that moment, the child can never create it. This macro does not release the interpreter.
macro_rules! interned {
    ($py:expr, $text:literal) => {{
        static NAME: std::sync::OnceLock<pyo3::Py<pyo3::types::PyString>> =
            std::sync::OnceLock::new();
        NAME.get().unwrap_or_else(|| crate::interned::intern($py, &NAME, $text)).bind($py)
    }};
}

/// Creates a string constant, outside of any lock. Without a GIL, creating a string may wait until
/// all threads have stopped, and a thread that waits for a lock of this crate does not stop.
#[cold]
pub fn intern<'name>(
    py: Python<'_>,
    name: &'name OnceLock<Py<PyString>>,
    text: &str,
) -> &'name Py<PyString> {
    let created = PyString::intern(py, text).unbind();
    name.get_or_init(|| created)
}
