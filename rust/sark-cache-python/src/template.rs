//! The decisions that are asked for just now, as Python dicts to be copied.
//!
//! To copy a dict takes a third of the time that it takes to build one from bytes. A template is a
//! function of the bytes it was built from and of nothing else, and it is found by comparing those:
//! so it can be shared by all entries and all caches, and nothing that happens to an entry makes
//! it wrong. Nobody outside is handed a template, only copies.
//!
//! One is made for what is asked for twice in a row among those that would be kept in the same
//! place, so that what is asked for once leaves no trace. They are [`SLOTS`] at most, of decisions
//! of up to [`LARGEST`] bytes: some hundred kilobytes for a process.

use crate::value::{Reader, hash};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// How many templates are kept. Few, so that they stay in the processor's cache: to copy one that
/// has left it, with all that it refers to, takes longer than to build a dict from its bytes.
const SLOTS: usize = 64;
/// Larger decisions are built anew each time, in bytes.
const LARGEST: usize = 768;
/// So are those with more lists and dicts in them.
const MOST: usize = 16;

struct Slot {
    /// The hash of what was asked for last.
    last: AtomicU32,
    template: Mutex<Option<Template>>,
}

struct Template {
    bytes: Arc<[u8]>,
    pattern: Pattern,
}

/// A dict or list to be copied, and those in it, which are to be copied each time, too.
enum Pattern {
    Dict(Py<PyDict>, Vec<(Py<PyAny>, Pattern)>),
    List(Py<PyList>, Vec<(usize, Pattern)>),
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
    if let Some(Template { bytes: kept, pattern }) = &*template
        && (Arc::ptr_eq(kept, bytes) || **kept == **bytes)
    {
        return pattern.copy(py);
    }
    let value = Reader::new(bytes).value(py)?;
    if bytes.len() > LARGEST {
        return Ok(value);
    }
    let Some(pattern) = Pattern::of(&value).filter(|pattern| pattern.containers() <= MOST) else {
        return Ok(value);
    };
    let copied = pattern.copy(py)?;
    *template = Some(Template { bytes: Arc::clone(bytes), pattern });
    Ok(copied)
}

impl Pattern {
    /// Takes a dict or list that nobody else has; `None` of anything else, which needs no copy.
    fn of(value: &Bound<'_, PyAny>) -> Option<Self> {
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            let inner =
                |(name, value): (Bound<'_, PyAny>, _)| Some((name.unbind(), Self::of(&value)?));
            return Some(Self::Dict(
                dict.clone().unbind(),
                dict.iter().filter_map(inner).collect(),
            ));
        }
        let list = value.cast_exact::<PyList>().ok()?;
        let inner = |(at, item)| Some((at, Self::of(&item)?));
        Some(Self::List(list.clone().unbind(), list.iter().enumerate().filter_map(inner).collect()))
    }

    /// How many lists and dicts it copies.
    fn containers(&self) -> usize {
        1 + match self {
            Self::Dict(_, inner) => inner.iter().map(|(_, it)| it.containers()).sum::<usize>(),
            Self::List(_, inner) => inner.iter().map(|(_, it)| it.containers()).sum(),
        }
    }

    /// A copy, all the way down.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Dict(dict, inner) => {
                let copied = dict.bind(py).copy()?;
                for (name, pattern) in inner {
                    copied.set_item(name, pattern.copy(py)?)?;
                }
                Ok(copied.into_any())
            }
            Self::List(list, inner) => {
                let list = list.bind(py);
                let copied = list.get_slice(0, list.len());
                for (at, pattern) in inner {
                    copied.set_item(*at, pattern.copy(py)?)?;
                }
                Ok(copied.into_any())
            }
        }
    }
}
