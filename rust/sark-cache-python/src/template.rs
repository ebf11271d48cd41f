//! The decisions that are asked for just now, as Python dicts to be copied.
//!
//! To copy a dict takes a third of the time that it takes to build one from bytes. A template is a
//! function of the bytes it was built from and of nothing else, and it is found by comparing those:
//! so it can be shared by all entries and all caches, and nothing that happens to an entry makes
//! it wrong. Nobody outside is handed a template, only copies.
//!
//! One is made for what is asked for twice in a row among those that would be kept in the same
//! place, so that what is asked for once leaves no trace. They are [`SLOTS`] at most, of decisions
//! of up to [`LARGEST`] bytes: about a megabyte for a process.

use crate::value::{Reader, hash};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// How many templates are kept.
const SLOTS: usize = 2048;
/// Larger decisions are built anew each time, in bytes.
const LARGEST: usize = 768;

struct Slot {
    /// The hash of what was asked for last.
    last: AtomicU32,
    template: Mutex<Option<Template>>,
}

struct Template {
    bytes: Arc<[u8]>,
    dict: Py<PyDict>,
    /// Whether it holds no other list or dict.
    flat: bool,
}

static TEMPLATES: [Slot; SLOTS] =
    [const { Slot { last: AtomicU32::new(0), template: Mutex::new(None) } }; SLOTS];

/// Rebuilds a value: a new object, all the way down.
#[inline]
pub fn rebuild<'py>(py: Python<'py>, bytes: &Arc<[u8]>) -> PyResult<Bound<'py, PyAny>> {
    let hash = hash(bytes);
    let slot = &TEMPLATES[hash as usize % SLOTS];
    if slot.last.load(Ordering::Relaxed) != hash {
        slot.last.store(hash, Ordering::Relaxed);
        return Reader::new(bytes).value(py);
    }
    // Somebody else is at it, or, in a forked child, was: it is built from its bytes.
    let Ok(mut template) = slot.template.try_lock() else { return Reader::new(bytes).value(py) };
    if let Some(Template { bytes: kept, dict, flat }) = &*template
        && (Arc::ptr_eq(kept, bytes) || **kept == **bytes)
    {
        let dict = dict.bind(py);
        return if *flat { Ok(dict.copy()?.into_any()) } else { copy(dict) };
    }
    let mut reader = Reader::new(bytes);
    let value = reader.value(py)?;
    if bytes.len() <= LARGEST
        && let Ok(dict) = value.cast::<PyDict>()
    {
        let flat = reader.containers == 1;
        let copied = copy(dict)?;
        *template = Some(Template { bytes: Arc::clone(bytes), dict: dict.clone().unbind(), flat });
        return Ok(copied);
    }
    Ok(value)
}

/// A copy of a dict, all the way down.
fn copy<'py>(dict: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    let copied = dict.copy()?;
    for (name, value) in dict {
        if let Some(container) = copy_of_container(&value)? {
            copied.set_item(name, container)?;
        }
    }
    Ok(copied.into_any())
}

/// A copy of a list or dict; None of anything else, which cannot be changed.
fn copy_of_container<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        return copy(dict).map(Some);
    }
    let Ok(list) = value.cast_exact::<PyList>() else { return Ok(None) };
    let copied = PyList::empty(value.py());
    for item in list {
        copied.append(copy_of_container(&item)?.unwrap_or(item))?;
    }
    Ok(Some(copied.into_any()))
}
