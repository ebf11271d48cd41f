//! Methods that count as coroutine functions, for frameworks that check before they call.
//!
//! `asyncio.iscoroutinefunction` and `inspect.iscoroutinefunction` look for a mark among the
//! attributes of a method. A method of a compiled class has no attributes of its own. So the class
//! has a [`CoroutineMethod`] in its place: an object with attributes, which is bound and called
//! like the method. It passes a call on in about 1 ns. A Python function would need 60 ns.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};
use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::ptr;

/// The attributes that a [`CoroutineMethod`] copies from its method.
const ATTRIBUTES: [&str; 5] =
    ["__name__", "__qualname__", "__doc__", "__text_signature__", "__objclass__"];

/// Marks methods of a class as coroutine functions. Each returns an awaitable.
pub fn mark(class: &Bound<'_, PyType>, methods: &[&str]) -> PyResult<()> {
    let py = class.py();
    let returns_awaitable =
        py.import("sark_cache._core.coroutines")?.getattr("returns_awaitable")?;
    for method in methods {
        let marked = new(&class.getattr(*method)?)?;
        class.setattr(*method, returns_awaitable.call1((marked,))?)?;
    }
    Ok(())
}

/// The object in the place of a method, laid out for CPython.
///
/// pyo3 has no macro for `Py_TPFLAGS_METHOD_DESCRIPTOR`. With this flag, a call of the method
/// creates no bound object.
#[repr(C)]
struct CoroutineMethod {
    base: ffi::PyObject,
    /// The function that CPython calls.
    vectorcall: ffi::vectorcallfunc,
    /// The method, owned, and its own call function. They never change.
    method: *mut ffi::PyObject,
    call: ffi::vectorcallfunc,
    /// The attributes, owned.
    dict: *mut ffi::PyObject,
}

static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

fn new<'py>(method: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = method.py();
    let dict = PyDict::new(py);
    for name in ATTRIBUTES {
        dict.set_item(name, method.getattr(name)?)?;
    }
    // SAFETY: the method is alive. The result is null for an object without a call function.
    let call = unsafe { ffi::PyVectorcall_Function(method.as_ptr()) }
        .ok_or_else(|| PyTypeError::new_err("a method that cannot be called fast"))?;
    let class = TYPE.get_or_try_init(py, || make_type(py))?.bind(py).as_type_ptr();
    // SAFETY: `class` is a heap type made from our spec, so its allocator returns memory for a
    // `CoroutineMethod`, zeroed, with one reference. All fields are written below, and no Python
    // code runs before that. The garbage collector already tracks the object, but `traverse` skips
    // null pointers.
    unsafe {
        let object = ffi::PyType_GenericAlloc(class, 0);
        let object = Bound::from_owned_ptr_or_err(py, object)?;
        let made = object.as_ptr().cast::<CoroutineMethod>();
        (&raw mut (*made).vectorcall).write(call_method);
        (&raw mut (*made).call).write(call);
        (&raw mut (*made).method).write(method.clone().into_ptr());
        (&raw mut (*made).dict).write(dict.into_ptr());
        share(object.as_ptr());
        Ok(object)
    }
}

/// Lets threads without a GIL call the same method without contention on its reference count.
///
/// # Safety
/// `object` must be a `CoroutineMethod`, and the thread attached.
unsafe fn share(object: *mut ffi::PyObject) {
    #[cfg(all(Py_GIL_DISABLED, Py_3_14, unix))]
    {
        unsafe extern "C" {
            fn PyUnstable_Object_EnableDeferredRefcount(object: *mut ffi::PyObject) -> c_int;
        }
        // SAFETY: the object is alive, and the garbage collector tracks it.
        unsafe { PyUnstable_Object_EnableDeferredRefcount(object) };
    }
    let _ = object;
}

fn make_type(py: Python<'_>) -> PyResult<Py<PyType>> {
    /// The tables must live as long as the type, which lives as long as the process.
    struct Tables([ffi::PyMemberDef; 3], [ffi::PyGetSetDef; 2]);
    // SAFETY: they are never written to. The pointers in them are to statics and functions.
    unsafe impl Sync for Tables {}
    const fn offset(name: &'static std::ffi::CStr, offset: usize) -> ffi::PyMemberDef {
        ffi::PyMemberDef {
            name: name.as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: offset.cast_signed(),
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        }
    }
    static TABLES: Tables = Tables(
        [
            offset(c"__vectorcalloffset__", offset_of!(CoroutineMethod, vectorcall)),
            offset(c"__dictoffset__", offset_of!(CoroutineMethod, dict)),
            ffi::PyMemberDef {
                name: ptr::null(),
                type_code: 0,
                offset: 0,
                flags: 0,
                doc: ptr::null(),
            },
        ],
        [
            ffi::PyGetSetDef {
                name: c"__dict__".as_ptr(),
                get: Some(ffi::PyObject_GenericGetDict),
                set: Some(ffi::PyObject_GenericSetDict),
                doc: ptr::null(),
                closure: ptr::null_mut(),
            },
            ffi::PyGetSetDef {
                name: ptr::null(),
                get: None,
                set: None,
                doc: ptr::null(),
                closure: ptr::null_mut(),
            },
        ],
    );

    let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
        slot(ffi::Py_tp_descr_get, bind as *mut c_void),
        slot(ffi::Py_tp_repr, repr as *mut c_void),
        slot(ffi::Py_tp_members, ptr::addr_of!(TABLES.0).cast_mut().cast()),
        slot(ffi::Py_tp_getset, ptr::addr_of!(TABLES.1).cast_mut().cast()),
        slot(0, ptr::null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"sark_cache._native.CoroutineMethod".as_ptr(),
        basicsize: c_int::try_from(size_of::<CoroutineMethod>()).expect("six words fit"),
        itemsize: 0,
        #[expect(clippy::cast_possible_truncation, reason = "these flags are below bit 32")]
        flags: (ffi::Py_TPFLAGS_DEFAULT
            | ffi::Py_TPFLAGS_HAVE_GC
            | ffi::Py_TPFLAGS_HAVE_VECTORCALL
            | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR
            | ffi::Py_TPFLAGS_IMMUTABLETYPE
            | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION) as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec is complete and ends with a zero slot; CPython copies it and the slots, and
    // keeps only the tables, which are static. The result is a new reference or null with an
    // exception set, which is what from_owned_ptr_or_err takes.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)) }?;
    Ok(made.cast_into::<PyType>()?.unbind())
}

/// Calls the method.
///
/// SAFETY: called by CPython with a `CoroutineMethod` and arguments as for any call, attached.
unsafe extern "C" fn call_method(
    object: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above. The method lives as long as the object, and `call` is its own call
    // function, which checks the arguments as it does if CPython calls it.
    unsafe {
        let object = object.cast::<CoroutineMethod>();
        ((*object).call)((*object).method, args, nargsf, kwnames)
    }
}

/// `__get__`: returns a bound method for an instance, and the object itself for the class.
///
/// SAFETY: called by CPython with a `CoroutineMethod`, attached. `instance` may be null.
unsafe extern "C" fn bind(
    object: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above. Both pointers are borrowed. The result is a new reference, or null with an
    // exception set.
    unsafe {
        if instance.is_null() || instance == ffi::Py_None() {
            return ffi::Py_NewRef(object);
        }
        let py = Python::assume_attached();
        let method = Bound::from_borrowed_ptr(py, object);
        let instance = Bound::from_borrowed_ptr(py, instance);
        match bound(&method, &instance) {
            Ok(bound) => bound.into_ptr(),
            Err(error) => {
                error.restore(py);
                ptr::null_mut()
            }
        }
    }
}

fn bound<'py>(
    method: &Bound<'py, PyAny>,
    instance: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    static METHOD_TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = method.py();
    let make = || Ok::<_, PyErr>(py.import("types")?.getattr("MethodType")?.unbind());
    METHOD_TYPE.get_or_try_init(py, make)?.bind(py).call1((method, instance))
}

/// SAFETY: called by CPython with a `CoroutineMethod`, attached.
unsafe extern "C" fn repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as above. The method lives as long as the object.
    unsafe { ffi::PyObject_Repr((*object.cast::<CoroutineMethod>()).method) }
}

/// SAFETY: called by the garbage collector with a `CoroutineMethod`.
unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    of: *mut c_void,
) -> c_int {
    // SAFETY: as above. The visited objects are alive, and null is skipped.
    unsafe {
        let this = object.cast::<CoroutineMethod>();
        let held = [ffi::Py_TYPE(object).cast(), (*this).method, (*this).dict];
        for held in held.into_iter().filter(|held: &*mut ffi::PyObject| !held.is_null()) {
            let stopped = visit(held, of);
            if stopped != 0 {
                return stopped;
            }
        }
        0
    }
}

/// SAFETY: called by CPython once, with the last reference to a `CoroutineMethod`, attached.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: as above. The type is a heap type, so each instance holds a reference to it.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = object.cast::<CoroutineMethod>();
        ffi::Py_XDECREF((*this).dict);
        ffi::Py_XDECREF((*this).method);
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}
