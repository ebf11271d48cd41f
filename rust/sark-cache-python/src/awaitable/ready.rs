//! The type of a finished awaitable.

use crate::awaitable::protocol::{AWAITED_TWICE, thrown};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A finished awaitable, laid out for CPython.
///
/// pyo3 has no macro for the `am_send` slot. CPython uses this slot from 3.11 on: it returns the
/// value without raising `StopIteration`.
///
/// The garbage collector does not track it. Nothing else holds the value until it is awaited, so it
/// cannot be part of a reference cycle.
#[repr(C)]
struct Ready {
    base: ffi::PyObject,
    /// The result, owned. Null after it was returned or dropped.
    value: AtomicPtr<ffi::PyObject>,
}

static READY_TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

fn ready_type(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    READY_TYPE.get_or_try_init(py, || make_ready_type(py)).map(|ready| ready.bind(py))
}

fn make_ready_type(py: Python<'_>) -> PyResult<Py<PyType>> {
    /// The method table must live as long as the type, which lives as long as the process.
    struct Methods([ffi::PyMethodDef; 4]);
    // SAFETY: it is never written to. The pointers in it are to statics and functions.
    unsafe impl Sync for Methods {}
    static METHODS: Methods = Methods([
        ffi::PyMethodDef {
            ml_name: c"send".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: ready_send_method },
            ml_flags: ffi::METH_O,
            ml_doc: c"Returns the result by raising StopIteration with it.".as_ptr(),
        },
        ffi::PyMethodDef {
            ml_name: c"throw".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: ready_throw },
            ml_flags: ffi::METH_VARARGS,
            ml_doc: c"Drops the result and raises the exception.".as_ptr(),
        },
        ffi::PyMethodDef {
            ml_name: c"close".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: ready_close },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: c"Drops the result.".as_ptr(),
        },
        ffi::PyMethodDef::zeroed(),
    ]);

    let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_dealloc, ready_dealloc as *mut c_void),
        slot(ffi::Py_am_await, ready_self as *mut c_void),
        slot(ffi::Py_am_send, ready_send as *mut c_void),
        slot(ffi::Py_tp_iter, ready_self as *mut c_void),
        slot(ffi::Py_tp_iternext, ready_next as *mut c_void),
        slot(ffi::Py_tp_methods, ptr::addr_of!(METHODS.0).cast_mut().cast()),
        slot(ffi::Py_tp_doc, c"A finished result; await it once.".as_ptr().cast_mut().cast()),
        slot(0, ptr::null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"sark_cache._native.Ready".as_ptr(),
        basicsize: c_int::try_from(size_of::<Ready>()).expect("three words fit"),
        itemsize: 0,
        #[expect(clippy::cast_possible_truncation, reason = "these flags are below bit 32")]
        flags: (ffi::Py_TPFLAGS_DEFAULT
            | ffi::Py_TPFLAGS_IMMUTABLETYPE
            | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION) as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec is complete and ends with a zero slot; CPython copies it and the slots, and
    // keeps only the method table, which is static. The result is a new reference or null with an
    // exception set, which is what from_owned_ptr_or_err takes.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)) }?;
    Ok(made.cast_into::<PyType>()?.unbind())
}

pub fn new_ready<'py>(py: Python<'py>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let ready = ready_type(py)?.as_type_ptr();
    // SAFETY: `ready` is a heap type made from our spec, so its allocator returns memory for a
    // `Ready`, zeroed, with one reference. Zero is a valid value for the pointer.
    unsafe {
        let object = ffi::PyType_GenericAlloc(ready, 0);
        let object = Bound::from_owned_ptr_or_err(py, object)?;
        (*object.as_ptr().cast::<Ready>()).value.store(value.into_ptr(), Ordering::Relaxed);
        Ok(object)
    }
}

/// Takes the result: an owned reference, or null if it was taken before.
///
/// # Safety
/// `object` must be a `Ready`, and the thread attached to the interpreter.
#[inline]
unsafe fn take(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the caller says it is a `Ready`. If two threads race, the swap gives the result to
    // one.
    unsafe { (*object.cast::<Ready>()).value.swap(ptr::null_mut(), Ordering::AcqRel) }
}

/// SAFETY: called by CPython once, with the last reference to a `Ready`, attached.
unsafe extern "C" fn ready_dealloc(object: *mut ffi::PyObject) {
    // SAFETY: as above. The type is a heap type, so each instance holds a reference to it.
    unsafe {
        ffi::Py_XDECREF(take(object));
        let ready = ffi::Py_TYPE(object);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(ready.cast());
    }
}

/// `__await__` and `__iter__`: the awaitable is its own iterator.
///
/// SAFETY: called by CPython with a `Ready`, attached.
unsafe extern "C" fn ready_self(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the object is alive: the caller holds a reference.
    unsafe { ffi::Py_NewRef(object) }
}

/// The `am_send` slot: returns the result without an exception.
///
/// SAFETY: called by CPython with a `Ready`, attached, and a place for the result.
unsafe extern "C" fn ready_send(
    object: *mut ffi::PyObject,
    _sent: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: as above. The caller gets an owned reference.
    unsafe {
        let value = take(object);
        *result = value;
        if value.is_null() {
            raise_awaited_twice();
            return ffi::PySendResult::PYGEN_ERROR;
        }
    }
    ffi::PySendResult::PYGEN_RETURN
}

/// `__next__`: returns the result as an iterator does, by `StopIteration`.
///
/// SAFETY: called by CPython with a `Ready`, attached.
unsafe extern "C" fn ready_next(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as above. `value` is owned here and released below. A null result without an
    // exception means StopIteration(None).
    unsafe {
        let value = take(object);
        if value.is_null() {
            raise_awaited_twice();
        } else if value == ffi::Py_None() {
            ffi::Py_DECREF(value);
        } else {
            let stop = ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, value);
            ffi::Py_DECREF(value);
            if !stop.is_null() {
                ffi::PyErr_SetObject(ffi::PyExc_StopIteration, stop);
                ffi::Py_DECREF(stop);
            }
        }
    }
    ptr::null_mut()
}

/// SAFETY: called by CPython with a `Ready` and the value sent, attached.
unsafe extern "C" fn ready_send_method(
    object: *mut ffi::PyObject,
    _sent: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above. A method, unlike `__next__`, must set the exception even for None.
    unsafe {
        let returned = ready_next(object);
        if ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
        }
        returned
    }
}

/// SAFETY: called by CPython with a `Ready` and a tuple of arguments, attached.
unsafe extern "C" fn ready_throw(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the thread is attached and `args` is a borrowed tuple.
    unsafe {
        let py = Python::assume_attached();
        let value = take(object);
        if value.is_null() {
            raise_awaited_twice();
        } else {
            ffi::Py_DECREF(value);
            let args = Bound::from_borrowed_ptr(py, args).cast_into_unchecked::<PyTuple>();
            thrown(&args).restore(py);
        }
    }
    ptr::null_mut()
}

/// SAFETY: called by CPython with a `Ready`, attached.
unsafe extern "C" fn ready_close(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe {
        ffi::Py_XDECREF(take(object));
        ffi::Py_NewRef(ffi::Py_None())
    }
}

#[cold]
fn raise_awaited_twice() {
    // SAFETY: every caller is a slot or method that CPython called on an attached thread.
    let py = unsafe { Python::assume_attached() };
    PyRuntimeError::new_err(AWAITED_TWICE).restore(py);
}
