//! `Decision`: an immutable decision that reads its fields from the stored bytes.
//!
//! All callers share one object. It cannot be changed, the garbage collector does not track it, and
//! it may outlive its entry. It shares the bytes with the entry and takes 48 bytes itself. A field
//! is decoded when it is read, in 50–100 ns.

use crate::convert::json::{is_mapping, not_an_object};
use crate::error::{Fault, wrong_type};
use crate::value::decode::Reader;
use crate::value::encode::encode;
use crate::value::format::DICT;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyString, PyTuple, PyType};
use pyo3::{IntoPyObjectExt, PyTypeInfo};
use sark_cache_core::EncodeError;
use sark_cache_core::limits::MAX_ENTRY_BYTES;
use std::sync::Arc;

/// An immutable decision. `get_decision` returns the same object to every caller.
#[pyclass(frozen, mapping, module = "sark_cache")]
pub struct Decision(Arc<[u8]>);

/// Returns the stored bytes of a snapshot of `value`. The bytes of a `Decision` are shared.
pub fn snapshot(value: &Bound<'_, PyAny>) -> Result<Arc<[u8]>, Fault> {
    match value.cast_exact::<Decision>() {
        Ok(decision) => Ok(Arc::clone(&decision.get().0)),
        Err(_) => encode(value),
    }
}

/// Decodes the next value as an immutable one: lists as tuples, dicts as [`Decision`]s.
fn frozen<'py>(reader: &mut Reader<'_>, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
    let decision = |reader: &mut Reader<'_>, py| {
        Ok(Some(Decision::new(py, reader.take_bytes()?.into())?.into_any()))
    };
    reader.inside_out(py, decision, |list| Ok(PyTuple::new(list.py, list.items)?.into_any()))
}

impl Decision {
    /// Creates a decision from the stored bytes of a dict.
    pub fn new(py: Python<'_>, bytes: Arc<[u8]>) -> PyResult<Bound<'_, Self>> {
        let decision = Bound::new(py, Self(bytes))?;
        // SAFETY: the object is complete and alive. It refers to no other object, so the garbage
        // collector need not visit it. Visiting some hundred thousand of them would take long.
        unsafe { ffi::PyObject_GC_UnTrack(decision.as_ptr().cast()) };
        Ok(decision)
    }

    fn find<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        // A field name is a `str`. The `__eq__` of a subclass is not called: its text is compared.
        let Ok(name) = name.cast::<PyString>() else { return Ok(None) };
        let mut reader = Reader::new(&self.0);
        if reader.seek(py, name)? { frozen(&mut reader, py).map(Some) } else { Ok(None) }
    }

    /// Returns the names and the immutable values, in the order of the fields.
    fn fields<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Vec<(Bound<'py, PyString>, Bound<'py, PyAny>)>> {
        let mut reader = Reader::new(&self.0);
        let count = reader.count()?;
        let field = |_| Ok((reader.name()?.to_python(py)?, frozen(&mut reader, py)?));
        (0..count).map(field).collect()
    }

    fn view<'py>(slf: &Bound<'py, Self>, kind: &str) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import(interned!(slf.py(), "collections.abc"))?.call_method1(kind, (slf,))
    }
}

#[pymethods]
impl Decision {
    #[new]
    #[pyo3(signature = (fields, /))]
    fn from_fields(fields: &Bound<'_, PyAny>) -> PyResult<Self> {
        if !is_mapping(fields) {
            return Err(wrong_type("fields", "a mapping", fields));
        }
        let bytes = snapshot(fields)?;
        if bytes.first() != Some(&DICT) {
            return Err(not_an_object().into());
        }
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(Fault::from(EncodeError::TooLarge).into());
        }
        Ok(Self(bytes))
    }

    /// True if the field "allow" is `True`. Other values, such as 1, do not count.
    #[getter]
    fn allow(&self, py: Python<'_>) -> PyResult<bool> {
        Reader::new(&self.0).is_true(py, interned!(py, "allow"))
    }

    /// The field "reason", or None if there is no such field.
    #[getter]
    fn reason<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.find(py, interned!(py, "reason"))
    }

    /// Returns the decision as a new dict. The caller may change it and its lists and dicts.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Reader::new(&self.0).value(py)
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let missing = || pyo3::exceptions::PyKeyError::new_err(name.clone().unbind());
        self.find(py, name)?.ok_or_else(missing)
    }

    fn __contains__(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.find(py, name)?.is_some())
    }

    fn __len__(&self) -> PyResult<usize> {
        Reader::new(&self.0).count()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        let names = self.fields(py)?.into_iter().map(|(name, _)| name);
        PyTuple::new(py, names.collect::<Vec<_>>())?.try_iter()
    }

    /// Returns the field of that name, or `default`.
    #[pyo3(signature = (name, default = None, /))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.find(py, name)?.or(default))
    }

    /// Returns the names of the fields.
    fn keys<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::view(slf, "KeysView")
    }

    /// Returns the values of the fields.
    fn values<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::view(slf, "ValuesView")
    }

    /// Returns the names and the values of the fields.
    fn items<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::view(slf, "ItemsView")
    }

    /// Returns whether a mapping would be stored as an equal decision. A list equals a tuple with
    /// the same items.
    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let equal = |stored: &[u8]| -> PyResult<bool> {
            Ok(*self.0 == *stored || self.to_dict(py)?.eq(Reader::new(stored).value(py)?)?)
        };
        if let Ok(other) = other.cast_exact::<Self>() {
            return equal(&other.get().0)?.into_py_any(py);
        }
        if !is_mapping(other) {
            return Ok(py.NotImplemented());
        }
        match snapshot(other) {
            Ok(stored) => equal(&stored)?.into_py_any(py),
            // A mapping that cannot be stored equals no stored decision.
            Err(Fault::NotStorable(_)) => false.into_py_any(py),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Returns the hash of the set of its fields. Decodes all of them.
    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        Reader::new(&self.0).hash(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Decision({})", self.to_dict(py)?.repr()?.to_str()?))
    }

    /// Returns the fields for pickling, so that the Python `Decision` can load them too.
    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyType>, (Bound<'py, PyAny>,))> {
        Ok((Self::type_object(py), (self.to_dict(py)?,)))
    }

    fn __copy__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __deepcopy__<'py>(slf: &Bound<'py, Self>, _memo: &Bound<'_, PyAny>) -> Bound<'py, Self> {
        slf.clone()
    }
}
