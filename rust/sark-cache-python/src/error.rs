//! The faults of keys and values, and their translation into Python exceptions.

use pyo3::exceptions::{PyException, PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use sark_cache_core::limits::MAX_ENTRY_BYTES;
use sark_cache_core::{EncodeError, InsertError};

pyo3::import_exception!(sark_cache.errors, InvalidationError);

/// The failure to make a key or a stored value of a Python object.
pub enum Fault {
    /// An argument of a type that the method does not accept: an error of the caller, always raised.
    WrongType(PyErr),
    /// The object is not JSON or is too large. The text says why.
    NotStorable(String),
    /// Python code of the object raised.
    Raised(PyErr),
}

impl Fault {
    /// Adds the name of the argument to the reason why it cannot be stored.
    #[cold]
    pub fn of(self, argument: &str) -> Self {
        match self {
            Self::NotStorable(reason) => Self::NotStorable(format!("{argument}: {reason}")),
            other => other,
        }
    }

    /// Returns the text for the log.
    ///
    /// Raises a fault that must not be swallowed: an argument of a wrong type, a cancellation, an
    /// interrupt.
    pub fn reason(self, py: Python<'_>) -> PyResult<String> {
        match self {
            Self::NotStorable(reason) => Ok(reason),
            // Only the type: the message may contain data of the request.
            Self::Raised(error) if error.is_instance_of::<PyException>(py) => {
                Ok(format!("an object's own code raised {}", type_name(error.value(py).as_any())))
            }
            Self::WrongType(error) | Self::Raised(error) => Err(error),
        }
    }

    /// Raises an argument of a wrong type; ignores every other fault.
    pub fn pass_wrong_type(self) -> PyResult<()> {
        match self {
            Self::WrongType(error) => Err(error),
            Self::NotStorable(_) | Self::Raised(_) => Ok(()),
        }
    }
}

impl From<EncodeError> for Fault {
    fn from(error: EncodeError) -> Self {
        Self::NotStorable(error.to_string())
    }
}

impl From<InsertError> for Fault {
    fn from(error: InsertError) -> Self {
        Self::NotStorable(error.to_string())
    }
}

impl From<PyErr> for Fault {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

/// Converts a fault into the exception that the general cache raises.
impl From<Fault> for PyErr {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotStorable(reason) => PyValueError::new_err(reason),
            Fault::WrongType(error) | Fault::Raised(error) => error,
        }
    }
}

/// Returns the text of a string. A string with a lone surrogate, which UTF-8 cannot hold, or one
/// larger than an entry may be cannot be stored.
#[inline]
pub fn text<'a>(string: &'a Bound<'_, PyString>) -> Result<&'a str, Fault> {
    if is_longer(string, MAX_ENTRY_BYTES) {
        return Err(too_large());
    }
    utf8(string)
}

/// Returns the text of a part of a request that has at most `limit` characters. The caller checks
/// that it has at most `limit` bytes.
#[inline]
pub fn text_of_part<'a>(
    part: &'static str,
    string: &'a Bound<'_, PyString>,
    limit: usize,
) -> Result<&'a str, Fault> {
    if is_longer(string, limit) {
        return Err(too_long(part, limit));
    }
    utf8(string).map_err(|fault| fault.of(part))
}

/// Returns the text of a part of a request, or of a tag, that has at most `limit` bytes.
pub fn text_within<'a>(
    part: &'static str,
    string: &'a Bound<'_, PyString>,
    limit: usize,
) -> Result<&'a str, Fault> {
    let text = text_of_part(part, string, limit)?;
    if text.len() > limit { Err(too_long(part, limit)) } else { Ok(text) }
}

/// Returns whether a string has more than `limit` characters. Checked first, so that a string that
/// is too long is not encoded as UTF-8.
#[inline]
pub fn is_longer(string: &Bound<'_, PyString>, limit: usize) -> bool {
    // SAFETY: `string` is a live `str`; the macro reads its length field.
    unsafe { ffi::PyUnicode_GET_LENGTH(string.as_ptr()) }.cast_unsigned() > limit
}

#[inline]
fn utf8<'a>(string: &'a Bound<'_, PyString>) -> Result<&'a str, Fault> {
    string.to_str().map_err(|error| utf8_fault(string, error))
}

#[cold]
fn utf8_fault(string: &Bound<'_, PyString>, error: PyErr) -> Fault {
    if error.is_instance_of::<PyUnicodeEncodeError>(string.py()) {
        Fault::NotStorable("a string with a lone surrogate, which UTF-8 cannot encode".to_owned())
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

/// Returns a `TypeError` that names the argument, the types it accepts and the type it was given.
pub fn wrong_type(argument: &str, accepted: &str, given: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{argument} must be {accepted}, not {}", type_name(given)))
}

/// Returns the qualified name of an object's type, for messages.
pub fn type_name(object: &Bound<'_, PyAny>) -> String {
    object
        .get_type()
        .fully_qualified_name()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string())
}
