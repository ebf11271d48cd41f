//! One translation of what can go wrong with a key or a value.

use pyo3::exceptions::{PyException, PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use sark_cache_core::limits::MAX_ENTRY_BYTES;
use sark_cache_core::{EncodeError, InsertError};

pyo3::import_exception!(sark_cache.errors, InvalidationError);

/// Why a Python object could not become a key or a stored value, or come back from one.
pub enum Fault {
    /// An argument of a type that the method does not take: a bug of the caller, always raised.
    WrongType(PyErr),
    /// It is not JSON, or too large to be stored: the fault of the object, told in words.
    NotJson(String),
    /// Python code that was run on the way raised.
    Raised(PyErr),
}

impl Fault {
    /// The fault in words for the log, unless Python must see it as an exception whatever is
    /// promised: a bug of the caller, a cancellation, an interrupt.
    pub fn reason(self, py: Python<'_>) -> PyResult<String> {
        match self {
            Self::NotJson(reason) => Ok(reason),
            // Its type alone: its message may hold what the request was about.
            Self::Raised(error) if error.is_instance_of::<PyException>(py) => {
                Ok(format!("an object's own code raised {}", type_name(error.value(py).as_any())))
            }
            Self::WrongType(error) | Self::Raised(error) => Err(error),
        }
    }

    /// Raises a bug of the caller and lets everything else pass.
    pub fn pass_wrong_type(self) -> PyResult<()> {
        match self {
            Self::WrongType(error) => Err(error),
            Self::NotJson(_) | Self::Raised(_) => Ok(()),
        }
    }
}

impl From<EncodeError> for Fault {
    fn from(error: EncodeError) -> Self {
        Self::NotJson(error.to_string())
    }
}

impl From<InsertError> for Fault {
    fn from(error: InsertError) -> Self {
        Self::NotJson(error.to_string())
    }
}

impl From<PyErr> for Fault {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

/// As the general cache raises it.
impl From<Fault> for PyErr {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotJson(reason) => PyValueError::new_err(reason),
            Fault::WrongType(error) | Fault::Raised(error) => error,
        }
    }
}

/// The text of a Python string; one that UTF-8 cannot hold (a lone surrogate) is not JSON, nor is one
/// that is larger than anything that can be stored.
#[inline]
pub fn text<'a>(string: &'a Bound<'_, PyString>) -> Result<&'a str, Fault> {
    if is_longer(string, MAX_ENTRY_BYTES) {
        return Err(too_large());
    }
    utf8(string)
}

/// The text of a part of a request, if it has no more characters than it may have bytes. Its bytes
/// are for the caller to count.
#[inline]
pub fn text_of_part<'a>(
    part: &'static str,
    string: &'a Bound<'_, PyString>,
    limit: usize,
) -> Result<&'a str, Fault> {
    if is_longer(string, limit) {
        return Err(too_long(part, limit));
    }
    utf8(string)
}

/// The text of a part of a request, or of a tag, that has at most so many bytes.
pub fn text_within<'a>(
    part: &'static str,
    string: &'a Bound<'_, PyString>,
    limit: usize,
) -> Result<&'a str, Fault> {
    let text = text_of_part(part, string, limit)?;
    if text.len() > limit { Err(too_long(part, limit)) } else { Ok(text) }
}

/// Whether a string has more characters than it may have bytes. Asked first, so that no UTF-8 is made
/// of what is too long anyway.
#[inline]
pub fn is_longer(string: &Bound<'_, PyString>, limit: usize) -> bool {
    // SAFETY: it is a string, and alive; its length is a field of it.
    unsafe { ffi::PyUnicode_GET_LENGTH(string.as_ptr()) }.cast_unsigned() > limit
}

#[inline]
fn utf8<'a>(string: &'a Bound<'_, PyString>) -> Result<&'a str, Fault> {
    string.to_str().map_err(|error| no_text(string, error))
}

#[cold]
fn no_text(string: &Bound<'_, PyString>, error: PyErr) -> Fault {
    if error.is_instance_of::<PyUnicodeEncodeError>(string.py()) {
        Fault::NotJson("a string with a lone surrogate, which UTF-8 cannot hold".to_owned())
    } else {
        Fault::Raised(error)
    }
}

#[cold]
fn too_long(part: &'static str, limit: usize) -> Fault {
    EncodeError::TooLong { part, limit }.into()
}

#[cold]
fn too_large() -> Fault {
    EncodeError::TooLarge.into()
}

/// A `TypeError` that names the argument, what it takes and what it was given.
pub fn wrong_type(argument: &str, takes: &str, given: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{argument} must be {takes}, not {}", type_name(given)))
}

/// The name of an object's type, for messages.
pub fn type_name(object: &Bound<'_, PyAny>) -> String {
    object
        .get_type()
        .fully_qualified_name()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string())
}
