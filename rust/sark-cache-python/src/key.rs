//! From Python arguments to canonical key bytes.

use crate::error::{Fault, text, wrong_type};
use crate::value::{hexadecimal, key_not_str, mapping_to_dict, not_json, private};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};
use sark_cache_core::KeyWriter;
use smallvec::SmallVec;

/// The context argument of a request: `None` or a mapping.
pub struct Context<'py>(Option<Bound<'py, PyDict>>);

impl<'py> Context<'py> {
    /// Takes the argument; anything but `None` and mappings is a `TypeError`.
    pub fn new(context: Option<&Bound<'py, PyAny>>) -> Result<Self, Fault> {
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

/// The key of a request.
pub fn request(
    user_id: &Bound<'_, PyString>,
    action: &Bound<'_, PyString>,
    resource: &Bound<'_, PyString>,
    context: &Context<'_>,
) -> Result<KeyWriter, Fault> {
    let mut writer = KeyWriter::request(text(user_id)?, text(action)?, text(resource)?)?;
    if let Context(Some(context)) = context
        && !context.is_empty()
    {
        write_dict(&mut writer, context)?;
    }
    Ok(writer)
}

/// The key of an entry of the general cache: a string or a tuple of JSON values.
pub fn general(key: &Bound<'_, PyAny>) -> Result<KeyWriter, Fault> {
    if !key.is_instance_of::<PyString>() && !key.is_instance_of::<PyTuple>() {
        return Err(Fault::WrongType(wrong_type("key", "a str or a tuple of JSON values", key)));
    }
    let mut writer = KeyWriter::general();
    write(&mut writer, key)?;
    Ok(writer)
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
