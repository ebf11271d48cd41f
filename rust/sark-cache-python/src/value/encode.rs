//! Encoding of Python values into the stored bytes.

use crate::convert::flat_dict::{self, FlatDict, Scalar};
use crate::convert::json::{Fields, Sink, walk};
use crate::error::{Fault, text};
use crate::value::field_names;
use crate::value::format::{
    BIG_INT, DICT, FALSE, FLOAT, INT, LIST, NONE, SMALL_INT, SPELLED, STRING, TRUE,
};
use pyo3::prelude::*;
use pyo3::types::PyString;
use sark_cache_core::EncodeError;
use sark_cache_core::limits::MAX_ENTRY_BYTES;
use smallvec::SmallVec;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// The buffer of the last value that this thread wrote. The next value reuses it.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer with a larger capacity is not kept.
const MAX_KEPT_BYTES: usize = 4096;

/// Encodes a snapshot of `value`.
pub fn encode(value: &Bound<'_, PyAny>) -> Result<Arc<[u8]>, Fault> {
    // Taken, not borrowed: the walk may run Python code that stores another value.
    let mut bytes = BUFFER.take();
    bytes.clear();
    let written = walk(value, &mut Writer { bytes: &mut bytes });
    let encoded = written.map(|()| bytes.as_slice().into());
    if bytes.capacity() <= MAX_KEPT_BYTES {
        BUFFER.set(bytes);
    }
    encoded
}

/// Writes values into a buffer.
struct Writer<'b> {
    bytes: &'b mut Vec<u8>,
}

impl Sink for Writer<'_> {
    fn room(&self) -> Result<(), EncodeError> {
        if self.bytes.len() > MAX_ENTRY_BYTES { Err(EncodeError::TooLarge) } else { Ok(()) }
    }

    fn whole(&mut self, value: &Bound<'_, PyAny>) -> bool {
        write_flat(self.bytes, value)
    }

    fn scalar(&mut self, scalar: Scalar<'_>) -> Result<(), EncodeError> {
        write_scalar(self.bytes, scalar);
        Ok(())
    }

    fn big_int(&mut self, digits: &str) -> Result<(), EncodeError> {
        self.bytes.push(BIG_INT);
        write_text(self.bytes, digits);
        Ok(())
    }

    fn enter_list(&mut self, items: usize) -> Result<(), EncodeError> {
        self.bytes.push(LIST);
        write_length(self.bytes, items);
        Ok(())
    }

    fn enter_map(&mut self, fields: &mut Fields<'_>) -> Result<(), Fault> {
        let mut names = SmallVec::<[&str; 8]>::new();
        for (name, _) in &*fields {
            names.push(text(name)?);
        }
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            // A reader could not know which of the two values counts.
            return Err(EncodeError::DuplicateKey.into());
        }
        self.bytes.push(DICT);
        write_length(self.bytes, fields.len());
        Ok(())
    }

    fn name(&mut self, name: &Bound<'_, PyString>) -> Result<(), Fault> {
        let (py, name) = (name.py(), text(name)?);
        if let Some(id) = field_names::id(py, name) {
            self.bytes.extend_from_slice(&id.to_le_bytes());
        } else {
            self.bytes.extend_from_slice(&SPELLED.to_le_bytes());
            write_text(self.bytes, name);
        }
        Ok(())
    }
}

/// Writes a flat dict. Writes nothing and returns false if the value is not one, a name has no
/// number yet, or it is too large.
fn write_flat(bytes: &mut Vec<u8>, value: &Bound<'_, PyAny>) -> bool {
    let begun = bytes.len();
    let mut fields = FlatDict::new();
    // SAFETY: writing the fields runs no Python code and creates no Python object.
    if unsafe { flat_dict::read(value, &mut fields) }.is_none() {
        return false;
    }
    bytes.push(DICT);
    write_length(bytes, fields.len());
    let written = fields.iter().all(|(name, value)| {
        let Some(id) = field_names::known(name) else { return false };
        bytes.extend_from_slice(&id.to_le_bytes());
        write_scalar(bytes, *value);
        bytes.len() <= MAX_ENTRY_BYTES
    });
    if !written {
        bytes.truncate(begun);
    }
    written
}

fn write_scalar(bytes: &mut Vec<u8>, scalar: Scalar<'_>) {
    match scalar {
        Scalar::Null => bytes.push(NONE),
        Scalar::Bool(value) => bytes.push(if value { TRUE } else { FALSE }),
        Scalar::Int(value) => write_int(bytes, value),
        Scalar::Float(value) => {
            bytes.push(FLOAT);
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        Scalar::String(value) => {
            bytes.push(STRING);
            write_text(bytes, value);
        }
    }
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
