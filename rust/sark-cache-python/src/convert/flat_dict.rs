//! Flat dicts, read in place: dicts of scalars, as most contexts and decisions are.
//!
//! Reading a `str`, `bool`, `None`, `float` or an `int` of 64 bits runs no Python code and creates no
//! object. So a dict of only these cannot change while it is read, and its fields need no references
//! of their own. That halves the cost of reading it as any [JSON value](crate::convert::json).

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sark_cache_core::limits::MAX_ENTRY_BYTES;
use smallvec::SmallVec;
use std::ptr;

/// A JSON value that contains no other value.
#[derive(Debug, Clone, Copy)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(&'a str),
}

/// The names and values of a flat dict, in its order.
pub type FlatDict<'a> = SmallVec<[(&'a str, Scalar<'a>); 24]>;

/// A dict with more fields is read as any JSON value, which checks its size first.
const MAX_FIELDS: ffi::Py_ssize_t = 1024;

/// Reads a dict of scalars into `fields`. Returns `None` for any other object.
///
/// `fields` is an argument because it is so large that moving it would cost time.
///
/// # Safety
/// `fields` points into the dict. Until it is dropped, no Python code may run, no Python object may be
/// created or released, and the thread must stay attached to the interpreter.
#[inline]
pub unsafe fn read<'a>(object: &'a Bound<'_, PyAny>, fields: &mut FlatDict<'a>) -> Option<()> {
    // Without a GIL, another thread may change the dict at any time.
    if cfg!(Py_GIL_DISABLED) || object.cast_exact::<PyDict>().is_err() {
        return None;
    }
    // SAFETY: `object` is a live dict.
    if unsafe { ffi::PyDict_Size(object.as_ptr()) } > MAX_FIELDS {
        return None;
    }
    let mut at = 0;
    let (mut name, mut value) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: `object` is a live dict, and nothing below changes it. Name and value are borrowed.
    while unsafe { ffi::PyDict_Next(object.as_ptr(), &raw mut at, &raw mut name, &raw mut value) }
        != 0
    {
        // SAFETY: the dict keeps both alive; the caller keeps it unchanged.
        fields.push(unsafe { (text(name)?, scalar(value)?) });
    }
    Some(())
}

/// Reads a scalar. Returns `None` for any other object.
///
/// # Safety
/// `value` must outlive the result, and the thread must be attached.
#[inline]
unsafe fn scalar<'a>(value: *mut ffi::PyObject) -> Option<Scalar<'a>> {
    // SAFETY: `value` is alive, says the caller; each function is called after its type check.
    unsafe {
        if ffi::PyUnicode_CheckExact(value) != 0 {
            return text(value).map(Scalar::String);
        }
        if ptr::eq(value, ffi::Py_None()) {
            return Some(Scalar::Null);
        }
        if ffi::PyBool_Check(value) != 0 {
            return Some(Scalar::Bool(ptr::eq(value, ffi::Py_True())));
        }
        if ffi::PyLong_CheckExact(value) != 0 {
            let mut overflow = 0;
            let int = ffi::PyLong_AsLongLongAndOverflow(value, &raw mut overflow);
            return (overflow == 0).then_some(Scalar::Int(int));
        }
        if ffi::PyFloat_CheckExact(value) != 0 {
            let float = ffi::PyFloat_AsDouble(value);
            return float.is_finite().then_some(Scalar::Float(float));
        }
    }
    None
}

/// Returns the text of a `str` (not of a subclass). Returns `None` for any other object, for a string
/// that UTF-8 cannot hold, and for one that is too long to be stored, which is not encoded.
///
/// # Safety
/// `string` must outlive the result, and the thread must be attached.
#[inline]
unsafe fn text<'a>(string: *mut ffi::PyObject) -> Option<&'a str> {
    // SAFETY: `string` is alive, says the caller. CPython keeps the UTF-8 of a string as long as the
    // string, and it is valid UTF-8.
    unsafe {
        if ffi::PyUnicode_CheckExact(string) == 0
            || ffi::PyUnicode_GET_LENGTH(string).cast_unsigned() > MAX_ENTRY_BYTES
        {
            return None;
        }
        let mut length = 0;
        let bytes = ffi::PyUnicode_AsUTF8AndSize(string, &raw mut length);
        if bytes.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        let bytes = std::slice::from_raw_parts(bytes.cast(), length.cast_unsigned());
        Some(std::str::from_utf8_unchecked(bytes))
    }
}
