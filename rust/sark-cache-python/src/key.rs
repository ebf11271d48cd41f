//! From Python arguments to canonical key bytes.

use crate::error::{Fault, text, wrong_type};
use crate::json::{self, Fields, Json, hexadecimal};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use sark_cache_core::KeyWriter;
use smallvec::SmallVec;
use std::cell::Cell;

thread_local! {
    /// The buffer of the last key this thread wrote, for the next one.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer that grew beyond this is not kept.
const LARGEST_KEPT: usize = 4096;

/// Writes a key into this thread's buffer and hands it to `using`.
#[inline]
fn written<R>(
    write: impl FnOnce(&mut KeyWriter) -> Result<(), Fault>,
    using: impl FnOnce(&KeyWriter) -> R,
) -> Result<R, Fault> {
    // Taken, not borrowed: what is called below may run Python code that writes another key.
    let mut writer = KeyWriter::reusing(BUFFER.take());
    let result = write(&mut writer).map(|()| using(&writer));
    let buffer = writer.into_buffer();
    if buffer.capacity() <= LARGEST_KEPT {
        BUFFER.set(buffer);
    }
    result
}

/// Hands the key of a request to `using`.
#[inline]
pub fn request<R>(
    [user_id, action, resource]: [&Bound<'_, PyString>; 3],
    context: Option<&Bound<'_, PyAny>>,
    using: impl FnOnce(&KeyWriter) -> R,
) -> Result<R, Fault> {
    let context = json::context(context)?;
    let write_request = |writer: &mut KeyWriter| {
        writer.request(text(user_id)?, text(action)?, text(resource)?)?;
        if context.is_empty() { Ok(()) } else { write_fields(writer, &context) }
    };
    written(write_request, using)
}

/// Hands the key of an entry of the general cache, a string or a tuple of JSON values, to `using`.
pub fn general<R>(key: &Bound<'_, PyAny>, using: impl FnOnce(&KeyWriter) -> R) -> Result<R, Fault> {
    if !key.is_instance_of::<PyString>() && !key.is_instance_of::<PyTuple>() {
        return Err(Fault::WrongType(wrong_type("key", "a str or a tuple of JSON values", key)));
    }
    let write_key = |writer: &mut KeyWriter| {
        writer.general();
        write(writer, key)
    };
    written(write_key, using)
}

fn write(writer: &mut KeyWriter, value: &Bound<'_, PyAny>) -> Result<(), Fault> {
    match Json::of(value)? {
        Json::Null => writer.null(),
        Json::Bool(value) => writer.bool(value),
        Json::Int(value) => writer.int(value),
        Json::BigInt(value) => writer.big_int(&hexadecimal(value)?)?,
        Json::Float(value) => writer.float(value)?,
        Json::String(value) => writer.string(value)?,
        Json::List(items) => writer.list(items.iter(), write)?,
        Json::Map(fields) => write_fields(writer, &fields)?,
    }
    Ok(())
}

fn write_fields(writer: &mut KeyWriter, fields: &Fields<'_>) -> Result<(), Fault> {
    let mut entries: SmallVec<[(&str, &Bound<'_, PyAny>); 8]> = SmallVec::new();
    for (name, value) in fields {
        entries.push((text(name)?, value));
    }
    writer.map(&mut entries, write)
}
