//! Decisions as compact bytes: what the cache stores, and what every hit is rebuilt from.
//!
//! The bytes hold no Python object. So stored entries are invisible to the garbage collector, may
//! be dropped on any thread, survive a fork, and nobody can change them from outside. Field names
//! are two bytes (see [`names`]); everything else is written out. Rebuilding a decision is the
//! larger part of what a hit costs more than a miss.
//!
//! | value | bytes |
//! |---|---|
//! | `None`, `False`, `True` | one tag |
//! | `int` | tag, 1 or 8 bytes; larger ones as hexadecimal text |
//! | `float` | tag, 8 bytes |
//! | `str` | tag, length, UTF-8 |
//! | `list`, `tuple` | tag, count, items; comes back as a `list` |
//! | `dict`, any `Mapping` | tag, count, for each field its name and value; comes back as a `dict` |
//!
//! Lengths and counts are varints of 7 bits a byte, lowest first. The form is private to the
//! process that wrote it.

use crate::error::{Fault, text};
use crate::json::{Fields, Json, hexadecimal};
use crate::names;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyString};
use sark_cache_core::NotJson;
use sark_cache_core::cache::MAX_ENTRY_BYTES;
use sark_cache_core::key::MAX_DEPTH;

const NONE: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const SMALL_INT: u8 = 3;
const INT: u8 = 4;
const BIG_INT: u8 = 5;
const FLOAT: u8 = 6;
const STRING: u8 = 7;
const LIST: u8 = 8;
const DICT: u8 = 9;

/// Follows a dict's count in place of a name's number when the name is written out.
const SPELLED: u16 = u16::MAX;

/// A JSON value, stored.
#[derive(Clone)]
pub struct Stored(Box<[u8]>);

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Stored {
    /// Takes a snapshot of `value`.
    pub fn from_python(value: &Bound<'_, PyAny>) -> Result<Self, Fault> {
        let mut bytes = Vec::with_capacity(256);
        write(&mut bytes, value, 0)?;
        Ok(Self(bytes.into()))
    }

    /// Rebuilds the value: a new object, all the way down.
    pub fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Reader { rest: &self.0, containers: 0 }.value(py)
    }
}

/// Rebuilds many values, equal ones by copying, which takes half as long.
#[derive(Default)]
pub struct Rebuild<'s, 'py> {
    /// Flat dicts rebuilt so far, beside their bytes, the last one of each [`slot`](Self::slot).
    /// Nobody else has seen them yet.
    flat: [Option<(&'s [u8], Bound<'py, PyDict>)>; SLOTS],
}

/// How many different decisions are at hand to be copied. A prime, so that every bit counts.
const SLOTS: usize = 13;

impl<'s, 'py> Rebuild<'s, 'py> {
    /// Rebuilds one value: a new object, all the way down.
    #[inline]
    pub fn value(&mut self, py: Python<'py>, stored: &'s Stored) -> PyResult<Bound<'py, PyAny>> {
        let bytes = &*stored.0;
        let slot = &mut self.flat[Self::slot(bytes)];
        if let Some((equal, dict)) = slot
            && *equal == bytes
        {
            return Ok(dict.copy()?.into_any());
        }
        let mut reader = Reader { rest: bytes, containers: 0 };
        let value = reader.value(py)?;
        // What is in a flat dict cannot be changed, so its copies may share it.
        if reader.containers == 1
            && let Ok(dict) = value.cast::<PyDict>()
        {
            *slot = Some((bytes, dict.clone()));
        }
        Ok(value)
    }

    /// Cheaper than a hash, and enough to tell the few decisions of a batch apart: by their length,
    /// the value of their first field and the end of their last one.
    #[inline]
    fn slot(bytes: &[u8]) -> usize {
        let first = bytes.first_chunk().map_or(0, |first| usize::from_le_bytes(*first));
        let last = bytes.last_chunk().map_or(0, |last| usize::from_le_bytes(*last));
        first.wrapping_add(last).wrapping_add(bytes.len()) % SLOTS
    }
}

fn write(bytes: &mut Vec<u8>, value: &Bound<'_, PyAny>, depth: usize) -> Result<(), Fault> {
    // Checked at every value, so a few objects that hold each other many times over stop here.
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(NotJson::TooLarge.into());
    }
    match Json::of(value)? {
        Json::Null => bytes.push(NONE),
        Json::Bool(value) => bytes.push(if value { TRUE } else { FALSE }),
        Json::Int(value) => write_int(bytes, value),
        Json::BigInt(value) => {
            bytes.push(BIG_INT);
            write_text(bytes, &hexadecimal(value)?);
        }
        Json::Float(value) => {
            bytes.push(FLOAT);
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        Json::String(value) => {
            bytes.push(STRING);
            write_text(bytes, value);
        }
        Json::List(_) | Json::Map(_) if depth == MAX_DEPTH => return Err(NotJson::TooDeep.into()),
        Json::List(items) => {
            bytes.push(LIST);
            write_length(bytes, items.len());
            for item in &items {
                write(bytes, item, depth + 1)?;
            }
        }
        Json::Map(fields) => write_fields(bytes, &fields, depth)?,
    }
    Ok(())
}

fn write_fields(bytes: &mut Vec<u8>, fields: &Fields<'_>, depth: usize) -> Result<(), Fault> {
    bytes.push(DICT);
    write_length(bytes, fields.len());
    for (name, value) in fields {
        let py = name.py();
        let name = text(name)?;
        if let Some(id) = names::id(py, name) {
            bytes.extend_from_slice(&id.to_le_bytes());
        } else {
            bytes.extend_from_slice(&SPELLED.to_le_bytes());
            write_text(bytes, name);
        }
        write(bytes, value, depth + 1)?;
    }
    Ok(())
}

fn write_int(bytes: &mut Vec<u8>, value: i64) {
    if let Ok(small) = i8::try_from(value) {
        bytes.push(SMALL_INT);
        bytes.extend_from_slice(&small.to_le_bytes());
    } else {
        bytes.push(INT);
        bytes.extend_from_slice(&value.to_le_bytes());
    }
}

fn write_text(bytes: &mut Vec<u8>, text: &str) {
    write_length(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "the low seven bits are what is written")]
fn write_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

/// Reads what [`write`] wrote. Bytes that it cannot have written are an error, never a panic.
struct Reader<'b> {
    rest: &'b [u8],
    /// How many lists and dicts it made.
    containers: usize,
}

impl<'b> Reader<'b> {
    fn value<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.byte()? {
            NONE => Ok(py.None().into_bound(py)),
            FALSE => false.into_bound_py_any(py),
            TRUE => true.into_bound_py_any(py),
            SMALL_INT => i8::from_le_bytes(self.array()?).into_bound_py_any(py),
            INT => i64::from_le_bytes(self.array()?).into_bound_py_any(py),
            BIG_INT => {
                let digits = PyString::from_bytes(py, self.text()?)?;
                py.get_type::<PyInt>().call1((digits, 16))
            }
            FLOAT => f64::from_le_bytes(self.array()?).into_bound_py_any(py),
            STRING => Ok(PyString::from_bytes(py, self.text()?)?.into_any()),
            LIST => {
                self.containers += 1;
                let list = PyList::empty(py);
                for _ in 0..self.length()? {
                    list.append(self.value(py)?)?;
                }
                Ok(list.into_any())
            }
            DICT => {
                self.containers += 1;
                let dict = PyDict::new(py);
                for _ in 0..self.length()? {
                    match u16::from_le_bytes(self.array()?) {
                        SPELLED => {
                            let name = PyString::from_bytes(py, self.text()?)?;
                            dict.set_item(name, self.value(py)?)?;
                        }
                        id => {
                            let name = names::string(id).ok_or_else(corrupt)?.bind(py);
                            dict.set_item(name, self.value(py)?)?;
                        }
                    }
                }
                Ok(dict.into_any())
            }
            _ => Err(corrupt()),
        }
    }

    fn byte(&mut self) -> PyResult<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> PyResult<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(corrupt)?;
        self.rest = rest;
        Ok(*array)
    }

    fn length(&mut self) -> PyResult<usize> {
        let mut length = 0;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(length);
            }
        }
        Err(corrupt())
    }

    /// UTF-8, which whoever makes a string of it checks.
    fn text(&mut self) -> PyResult<&'b [u8]> {
        let length = self.length()?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or_else(corrupt)?;
        self.rest = rest;
        Ok(text)
    }
}

#[cold]
fn corrupt() -> PyErr {
    PyRuntimeError::new_err("a stored value is corrupt")
}
