//! Flat dicts, read in place: what most contexts and decisions are.
//!
//! To read a `str`, `bool`, `None`, `float` or an `int` of 64 bits runs no Python code and makes no
//! object. So a dict with nothing else in it stays as it is while it is read: neither it nor what it
//! holds needs to be held on to, which is half of what it would take to read it (see [`json`]).
//!
//! [`json`]: crate::convert::json

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sark_cache_core::limits::MAX_ENTRY_BYTES;
use smallvec::SmallVec;
use std::ptr;

/// A JSON value that holds no other.
#[derive(Debug, Clone, Copy)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(&'a str),
}

/// Names and values.
pub type FlatDict<'a> = SmallVec<[(&'a str, Scalar<'a>); 24]>;

/// A dict with more fields is read in the general way, which looks at its size first.
const MAX_FIELDS: ffi::Py_ssize_t = 1024;

/// Reads names and values of a dict that holds nothing but fields, in its order, into `fields`, which
/// are as large as to be felt when they are moved. `None` of anything else.
///
/// # Safety
/// What is read points into the dict: until it is dropped no Python code may run, no Python object
/// may be made or released, and the thread must stay attached to the interpreter.
#[inline]
pub unsafe fn read<'a>(object: &'a Bound<'_, PyAny>, fields: &mut FlatDict<'a>) -> Option<()> {
    // Without a GIL another thread may change it at any time.
    if cfg!(Py_GIL_DISABLED) || object.cast_exact::<PyDict>().is_err() {
        return None;
    }
    // SAFETY: it is a dict.
    if unsafe { ffi::PyDict_Size(object.as_ptr()) } > MAX_FIELDS {
        return None;
    }
    let mut at = 0;
    let (mut name, mut value) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: it is a dict, and nothing below changes it. Name and value are borrowed from it.
    while unsafe { ffi::PyDict_Next(object.as_ptr(), &raw mut at, &raw mut name, &raw mut value) }
        != 0
    {
        // SAFETY: both are alive, as the dict is; see the caller's promise.
        fields.push(unsafe { (text(name)?, scalar(value)?) });
    }
    Some(())
}

/// # Safety
/// `value` must be alive for as long as what is returned, and the thread attached.
#[inline]
unsafe fn scalar<'a>(value: *mut ffi::PyObject) -> Option<Scalar<'a>> {
    // SAFETY: the caller says that it is alive; each is asked only for what its type is said to be.
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

/// The text of what is exactly a `str`; `None` of anything else, where UTF-8 cannot hold it, and of
/// what is too long to be stored, so that no UTF-8 is made of it.
///
/// # Safety
/// As for [`scalar`].
#[inline]
unsafe fn text<'a>(string: *mut ffi::PyObject) -> Option<&'a str> {
    // SAFETY: the caller says that it is alive. CPython keeps the UTF-8 of a string as long as it,
    // and makes no UTF-8 that is none.
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
