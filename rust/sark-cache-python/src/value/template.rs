//! The decisions that are asked for just now, as Python dicts to be copied.
//!
//! To copy a dict takes a third of the time that it takes to build one from bytes, and decisions are
//! much alike: the same fields, most of them with the same values. So one decision of each kind is
//! kept as a dict; a hit copies it and puts in those values that its own bytes have otherwise. What
//! comes out is a function of the hit's bytes alone, which are compared to the very last: so a
//! template can be shared by all entries and all caches, and nothing that happens to an entry makes
//! it wrong. Nobody outside is handed a template, only copies.
//!
//! They are [`SLOTS`] at most, of decisions of up to [`MAX_BYTES`] bytes: some hundred kilobytes for a
//! process, that stay in the processor's cache.

use crate::value::decode::Reader;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::{Arc, Mutex};

/// The number of templates. Decisions of one kind share a slot: those with the same first field
/// and as many of them.
const SLOTS: usize = 64;
/// The maximum size of a decision with a template, in bytes. Larger ones are decoded each time.
const MAX_BYTES: usize = 2048;
/// The maximum number of lists and dicts in a decision with a template.
const MAX_CONTAINERS: usize = 16;
/// A template gives way to what is asked for once it was not that, so many times in a row.
const REPLACE_AFTER_MISSES: u8 = 64;

struct Slot {
    template: Option<Template>,
    /// The number of consecutive requests for another decision.
    consecutive_misses: u8,
}

struct Template {
    bytes: Arc<[u8]>,
    pattern: Pattern,
    /// Of each field, how many of `bytes` its name takes, and its name and value.
    field_lengths: Vec<(usize, usize)>,
}

/// A dict or list to be copied, and those in it, which are to be copied each time, too.
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

/// The templates. The first request for a decision leaves no trace; the second creates a template.
static TEMPLATES: [Mutex<Slot>; SLOTS] =
    [const { Mutex::new(Slot { template: None, consecutive_misses: REPLACE_AFTER_MISSES - 2 }) };
        SLOTS];

/// Rebuilds a value: a new object, all the way down.
#[inline]
pub fn rebuild<'py>(py: Python<'py>, bytes: &Arc<[u8]>) -> PyResult<Bound<'py, PyAny>> {
    let build = || Reader::new(bytes).value(py);
    let Some(slot) = slot(bytes).filter(|_| bytes.len() <= MAX_BYTES) else { return build() };
    // Somebody else is at it, or, in a forked child, was: it is built from its bytes.
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

/// Where the template of a value's kind is: by its tag, its count and the name of its first field.
#[inline]
fn slot(bytes: &[u8]) -> Option<&'static Mutex<Slot>> {
    let kind = u32::from_le_bytes(*bytes.first_chunk()?);
    // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    let place = kind.wrapping_mul(0x9E37_79B9) >> (u32::BITS - SLOTS.ilog2());
    Some(&TEMPLATES[place as usize])
}

impl Template {
    /// Takes a value that nobody else has, and the bytes it was built from.
    fn of(value: &Bound<'_, PyAny>, bytes: &Arc<[u8]>) -> PyResult<Option<Self>> {
        let Ok(Some(pattern)) = Pattern::of(value, &mut 0) else { return Ok(None) };
        let field_lengths = match &pattern {
            Pattern::Dict(..) => Reader::new(bytes).field_lengths()?,
            Pattern::List(..) => Vec::new(),
        };
        Ok(Some(Self { bytes: Arc::clone(bytes), pattern, field_lengths }))
    }

    /// A copy with the values of these bytes; `None` if they have other fields.
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
    /// Takes a dict or list that nobody else has; `None` of anything else, which needs no copy. With
    /// more than [`MAX_CONTAINERS`] lists and dicts in it, counted in `containers`, it is an error: so a
    /// pattern is never nested deeper than that.
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

    /// A copy, all the way down.
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
