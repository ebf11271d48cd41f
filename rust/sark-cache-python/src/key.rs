//! From Python arguments to canonical key bytes.

use crate::error::{Fault, text, wrong_type};
use crate::value::{hexadecimal, key_not_str, mapping_to_dict, not_json, private};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};
use sark_cache_core::KeyWriter;
use smallvec::SmallVec;
use std::cell::Cell;

/// The context argument of a request: `None` or a mapping.
struct Context<'py>(Option<Bound<'py, PyDict>>);

impl<'py> Context<'py> {
    /// Takes the argument; anything but `None` and mappings is a `TypeError`.
    fn new(context: Option<&Bound<'py, PyAny>>) -> Result<Self, Fault> {
        let Some(context) = context else { return Ok(Self(None)) };
        if let Ok(dict) = context.cast::<PyDict>() {
            return Ok(Self(Some(dict.clone())));
        }
        if context.is_none() {
            return Ok(Self(None));
        }
        match context.cast::<PyMapping>() {
            Ok(mapping) => Ok(Self(Some(mapping_to_dict(mapping)?))),
            Err(_) => Err(Fault::WrongType(wrong_type("context", "a mapping or None", context))),
        }
    }
}

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
    let context = Context::new(context)?;
    let write_request = |writer: &mut KeyWriter| {
        writer.request(text(user_id)?, text(action)?, text(resource)?)?;
        if let Context(Some(context)) = &context
            && !context.is_empty()
        {
            write_dict(writer, context)?;
        }
        Ok(())
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
    // bool before int, which it is a subclass of.
    if let Ok(value) = value.cast::<PyString>() {
        writer.string(text(value)?)?;
    } else if let Ok(value) = value.cast::<PyBool>() {
        writer.bool(value.is_true());
    } else if value.is_none() {
        writer.null();
    } else if let Ok(value) = value.cast::<PyInt>() {
        match value.extract::<i64>() {
            Ok(value) => writer.int(value),
            Err(_) => writer.big_int(&hexadecimal(value)?)?,
        }
    } else if let Ok(value) = value.cast::<PyFloat>() {
        writer.float(value.value())?;
    } else if let Ok(dict) = value.cast::<PyDict>() {
        write_dict(writer, dict)?;
    } else if let Ok(list) = value.cast::<PyList>() {
        let items: SmallVec<[_; 8]> = list.iter().collect();
        writer.list(items.iter(), |writer, item| write(writer, item))?;
    } else if let Ok(tuple) = value.cast::<PyTuple>() {
        writer.list(tuple.iter_borrowed(), |writer, item| write(writer, &item))?;
    } else if let Ok(mapping) = value.cast::<PyMapping>() {
        write_dict(writer, &mapping_to_dict(mapping)?)?;
    } else {
        return Err(not_json(value));
    }
    Ok(())
}

fn write_dict(writer: &mut KeyWriter, dict: &Bound<'_, PyDict>) -> Result<(), Fault> {
    let held: SmallVec<[_; 8]> = private(dict)?.iter().collect();
    let mut entries: SmallVec<[(&str, &Bound<'_, PyAny>); 8]> = SmallVec::with_capacity(held.len());
    for (name, value) in &held {
        let name = name.cast::<PyString>().map_err(|_| key_not_str(name))?;
        entries.push((text(name)?, value));
    }
    writer.map(&mut entries, write)
}
