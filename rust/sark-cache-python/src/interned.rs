//! String constants for Python.

use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::OnceLock;

/// A string constant for Python, made once.
///
/// As `pyo3::intern!`, but that lets go of the interpreter while it makes one, and a fork that comes
/// in between leaves a child in which it is never made.
macro_rules! interned {
    ($py:expr, $text:literal) => {{
        static NAME: std::sync::OnceLock<pyo3::Py<pyo3::types::PyString>> =
            std::sync::OnceLock::new();
        NAME.get().unwrap_or_else(|| crate::interned::intern($py, &NAME, $text)).bind($py)
    }};
}

/// Makes a string constant. Not while others wait for it: without a GIL, to make it may be to wait
/// until all threads have stopped, and one that waits for a lock of ours does not stop.
#[cold]
pub fn intern<'name>(
    py: Python<'_>,
    name: &'name OnceLock<Py<PyString>>,
    text: &str,
) -> &'name Py<PyString> {
    let made = PyString::intern(py, text).unbind();
    name.get_or_init(|| made)
}
