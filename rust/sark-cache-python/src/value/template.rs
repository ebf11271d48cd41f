//! Templates: recently served decisions as Python dicts, so that a hit copies a dict instead of
//! decoding bytes.
//!
//! Copying a dict takes a third of the time of building it from bytes. Decisions of one kind are
//! similar: they have the same fields, and most of the values are the same. So one decision of each
//! kind is kept as a dict. A hit copies the dict and replaces the values that differ.
//!
//! The result depends only on the bytes of the hit, because every byte is compared. So all entries
//! of all caches share the templates, and a change of an entry never makes a template wrong.
//! Callers get only copies.
//!
//! There are at most [`SLOTS`] templates, of decisions of up to [`MAX_BYTES`] bytes. They take some
//! hundred kilobytes per process, which fit in the processor's cache.

use crate::value::decode::Reader;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::{Arc, Mutex};

/// The number of templates. Decisions of one kind share a slot. They have the same first field and
/// the same number of fields.
const SLOTS: usize = 64;
/// The maximum size of a decision with a template, in bytes. Larger ones are decoded each time.
const MAX_BYTES: usize = 2048;
/// The maximum number of lists and dicts in a decision with a template.
const MAX_CONTAINERS: usize = 16;
/// A template is replaced after this many consecutive requests for other decisions.
const REPLACE_AFTER_MISSES: u8 = 64;

struct Slot {
    template: Option<Template>,
    /// The number of consecutive requests for another decision.
    consecutive_misses: u8,
}

struct Template {
    bytes: Arc<[u8]>,
    pattern: Pattern,
    /// Two lengths in `bytes` for each field: of its name, and of name and value.
    field_lengths: Vec<(usize, usize)>,
}

/// A dict or list to copy, and the dicts and lists in it, which are copied too.
enum Pattern {
    Dict(Py<PyDict>, Vec<(Py<PyAny>, Option<Pattern>)>),
    List(Py<PyList>, Vec<(usize, Pattern)>),
}

/// A value that holds too many lists and dicts to be kept as a template.
struct TooMany;

fn count_container(containers: &mut usize) -> Result<(), TooMany> {
    *containers += 1;
    if *containers > MAX_CONTAINERS { Err(TooMany) } else { Ok(()) }
}

/// The templates. The second request that uses an empty slot creates its template.
static TEMPLATES: [Mutex<Slot>; SLOTS] =
    [const { Mutex::new(Slot { template: None, consecutive_misses: REPLACE_AFTER_MISSES - 2 }) };
        SLOTS];

/// Rebuilds a value. It is a new object, and so are all lists and dicts in it.
#[inline]
pub fn rebuild<'py>(py: Python<'py>, bytes: &Arc<[u8]>) -> PyResult<Bound<'py, PyAny>> {
    let build = || Reader::new(bytes).value(py);
    let Some(slot) = slot(bytes).filter(|_| bytes.len() <= MAX_BYTES) else { return build() };
    // Another thread uses the slot, or used it at the moment of a fork. The value is decoded
    // instead.
    let Ok(mut slot) = slot.try_lock() else { return build() };
    let Slot { template, consecutive_misses } = &mut *slot;
    if let Some(template) = template {
        if Arc::ptr_eq(&template.bytes, bytes) || *template.bytes == **bytes {
            *consecutive_misses = 0;
            return template.pattern.copy(py);
        }
        if *consecutive_misses < REPLACE_AFTER_MISSES
            && let Some(value) = template.fill_from(py, bytes)?
        {
            *consecutive_misses += 1;
            return Ok(value);
        }
    }
    let value = build()?;
    *consecutive_misses += 1;
    if *consecutive_misses < REPLACE_AFTER_MISSES {
        return Ok(value);
    }
    *consecutive_misses = 0;
    *template = Template::of(&value, bytes)?;
    match template {
        Some(template) => template.pattern.copy(py),
        None => Ok(value),
    }
}

/// Returns the slot for a value's kind, which its tag, its count and its first field's name
/// determine.
#[inline]
fn slot(bytes: &[u8]) -> Option<&'static Mutex<Slot>> {
    let kind = u32::from_le_bytes(*bytes.first_chunk()?);
    // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    let place = kind.wrapping_mul(0x9E37_79B9) >> (u32::BITS - SLOTS.ilog2());
    Some(&TEMPLATES[place as usize])
}

impl Template {
    /// Creates a template from a value, which no caller may have, and the bytes it was built from.
    fn of(value: &Bound<'_, PyAny>, bytes: &Arc<[u8]>) -> PyResult<Option<Self>> {
        let Ok(Some(pattern)) = Pattern::of(value, &mut 0) else { return Ok(None) };
        let field_lengths = match &pattern {
            Pattern::Dict(..) => Reader::new(bytes).field_lengths()?,
            Pattern::List(..) => Vec::new(),
        };
        Ok(Some(Self { bytes: Arc::clone(bytes), pattern, field_lengths }))
    }

    /// Returns a copy with the values of these bytes, or `None` if they have other fields.
    fn fill_from<'py>(&self, py: Python<'py>, bytes: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Pattern::Dict(dict, fields) = &self.pattern else { return Ok(None) };
        let all = self.field_lengths.iter().map(|(_, field)| field).sum::<usize>();
        let (head, mut rest) = self.bytes.split_at(self.bytes.len() - all);
        let mut reader = Reader::new(bytes);
        if !reader.skip_prefix(head) {
            return Ok(None);
        }
        let copied = dict.bind(py).copy()?;
        for ((name, inner), (named, field)) in fields.iter().zip(&self.field_lengths) {
            let own;
            (own, rest) = rest.split_at(*field);
            if reader.skip_prefix(own) {
                if let Some(pattern) = inner {
                    copied.set_item(name, pattern.copy(py)?)?;
                }
            } else if reader.skip_prefix(&own[..*named]) {
                copied.set_item(name, reader.value(py)?)?;
            } else {
                return Ok(None);
            }
        }
        Ok(Some(copied.into_any()))
    }
}

impl Pattern {
    /// Creates a pattern from a dict or list, which no caller may have. Returns `None` for any
    /// other value: it needs no copy.
    ///
    /// Counts the lists and dicts in `containers`. More than [`MAX_CONTAINERS`] are an error, so
    /// the nesting of a pattern is bounded too.
    fn of(value: &Bound<'_, PyAny>, containers: &mut usize) -> Result<Option<Self>, TooMany> {
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            count_container(containers)?;
            let fields = dict.iter().map(|(name, value)| {
                let inner = Self::of(&value, containers)?;
                Ok((name.unbind(), inner))
            });
            let fields = fields.collect::<Result<_, _>>()?;
            return Ok(Some(Self::Dict(dict.clone().unbind(), fields)));
        }
        let Ok(list) = value.cast_exact::<PyList>() else { return Ok(None) };
        count_container(containers)?;
        let inner = list.iter().enumerate().filter_map(|(at, item)| {
            Some(Self::of(&item, containers).transpose()?.map(|inner| (at, inner)))
        });
        let inner = inner.collect::<Result<_, _>>()?;
        Ok(Some(Self::List(list.clone().unbind(), inner)))
    }

    /// Returns a copy, with copies of all lists and dicts in it.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Dict(dict, fields) => {
                let copied = dict.bind(py).copy()?;
                for (name, inner) in fields {
                    if let Some(pattern) = inner {
                        copied.set_item(name, pattern.copy(py)?)?;
                    }
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
