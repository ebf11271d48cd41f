//! The walk over a Python object as a JSON value; keys and stored values are both written by it.
//!
//! A `dict`, `list` or `tuple` is read directly. A subclass of these, or another `Mapping`, is read
//! through its own methods, since those define the content that the caller sees. The items of a
//! container are referenced before any of them is visited, so Python code that runs during the walk
//! cannot change them.

use crate::convert::flat_dict::Scalar;
use crate::error::{Fault, text, type_name, wrong_type};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};
use sark_cache_core::EncodeError;
use sark_cache_core::limits::{MAX_DEPTH, MAX_ENTRY_BYTES};
use smallvec::SmallVec;
use std::mem;

/// The items of a list or tuple.
pub type Items<'py> = SmallVec<[Bound<'py, PyAny>; 8]>;
/// The names and values of a mapping.
pub type Fields<'py> = SmallVec<[(Bound<'py, PyString>, Bound<'py, PyAny>); 8]>;

/// One level of a JSON value.
pub enum Json<'a, 'py> {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits.
    BigInt(&'a Bound<'py, PyInt>),
    Float(f64),
    String(&'a str),
    List(Items<'py>),
    Map(Fields<'py>),
}

impl<'a, 'py> Json<'a, 'py> {
    /// Reads one level of `object`.
    #[inline]
    pub fn of(object: &'a Bound<'py, PyAny>) -> Result<Self, Fault> {
        // The most frequent types first; bool before int, its base class.
        if let Ok(string) = object.cast::<PyString>() {
            Ok(Self::String(text(string)?))
        } else if let Ok(value) = object.cast::<PyBool>() {
            Ok(Self::Bool(value.is_true()))
        } else if object.is_none() {
            Ok(Self::Null)
        } else if let Ok(value) = object.cast::<PyInt>() {
            Ok(value.extract().map_or(Self::BigInt(value), Self::Int))
        } else if let Ok(value) = object.cast::<PyFloat>() {
            finite(value.value())
        } else if let Ok(dict) = object.cast_exact::<PyDict>() {
            Ok(Self::Map(fields_of_dict(dict)?))
        } else if let Ok(list) = object.cast_exact::<PyList>() {
            fits(list.len())?;
            // Without a GIL, another thread may change the list; copying it is one atomic step.
            #[cfg(Py_GIL_DISABLED)]
            let list = &list.to_tuple();
            Ok(Self::List(list.iter().collect()))
        } else if let Ok(tuple) = object.cast_exact::<PyTuple>() {
            fits(tuple.len())?;
            Ok(Self::List(tuple.iter().collect()))
        } else if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
            // One item more than fits is enough to see that there are too many.
            let items: Items<'py> =
                object.try_iter()?.take(MAX_ENTRY_BYTES + 1).collect::<PyResult<_>>()?;
            fits(items.len())?;
            Ok(Self::List(items))
        } else if let Some(fields) = fields(object)? {
            Ok(Self::Map(fields))
        } else {
            Err(Fault::NotStorable(format!(
                "a value of type {} is not JSON (str, int, float, bool, None, list, tuple, dict \
                 with str keys)",
                type_name(object)
            )))
        }
    }
}

/// A receiver of the parts of a JSON value, in the order of [`walk`].
pub trait Sink {
    /// Returns an error once more was written than can be stored. Called before every value, so that
    /// a few objects that contain each other many times do not expand without end.
    fn room(&self) -> Result<(), EncodeError>;

    /// Writes a whole value at once, if the sink has a faster way for it. Returns false if it wrote
    /// nothing.
    fn whole(&mut self, value: &Bound<'_, PyAny>) -> bool {
        let _ = value;
        false
    }

    /// Writes a scalar.
    fn scalar(&mut self, scalar: Scalar<'_>) -> Result<(), EncodeError>;

    /// Writes an integer beyond 64 bits, given by its [hexadecimal digits](hexadecimal).
    fn big_int(&mut self, digits: &str) -> Result<(), EncodeError>;

    /// Begins a list of `items` items, which follow.
    fn enter_list(&mut self, items: usize) -> Result<(), EncodeError>;

    /// Begins a mapping. It may reorder `fields`; then the name and the value of each field follow, in
    /// that order.
    fn enter_map(&mut self, fields: &mut Fields<'_>) -> Result<(), Fault>;

    /// Writes the name of a field.
    fn name(&mut self, name: &Bound<'_, PyString>) -> Result<(), Fault>;

    /// Ends the innermost list or mapping.
    fn leave(&mut self) {}
}

/// The unvisited rest of a list or mapping.
enum Rest<'py> {
    Items(smallvec::IntoIter<[Bound<'py, PyAny>; 8]>),
    Fields(smallvec::IntoIter<[(Bound<'py, PyString>, Bound<'py, PyAny>); 8]>),
}

/// Writes a JSON value, with all values in it, to `sink`.
///
/// It does not recurse: the deepest value needs no more stack than a flat one, so the walk works on
/// the smallest stack that a thread may have.
pub fn walk(value: &Bound<'_, PyAny>, sink: &mut impl Sink) -> Result<(), Fault> {
    match begin(value, 0, sink)? {
        Some(rest) => walk_rest(rest, sink),
        None => Ok(()),
    }
}

/// Writes a mapping whose fields were read to `sink`, as [`walk`] does.
pub fn walk_fields(mut fields: Fields<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
    sink.enter_map(&mut fields)?;
    walk_rest(Rest::Fields(fields.into_iter()), sink)
}

fn walk_rest<'py>(mut inner: Rest<'py>, sink: &mut impl Sink) -> Result<(), Fault> {
    let mut outer: Vec<Rest<'py>> = Vec::new();
    loop {
        let next = match &mut inner {
            Rest::Items(items) => items.next(),
            Rest::Fields(fields) => match fields.next() {
                None => None,
                Some((name, value)) => {
                    sink.name(&name)?;
                    Some(value)
                }
            },
        };
        if let Some(value) = next {
            if let Some(rest) = begin(&value, outer.len() + 1, sink)? {
                outer.push(mem::replace(&mut inner, rest));
            }
            continue;
        }
        sink.leave();
        match outer.pop() {
            Some(around) => inner = around,
            None => return Ok(()),
        }
    }
}

/// Writes a scalar to `sink`, or the start of a list or mapping, whose rest it returns. `depth` is the
/// number of containers around the value.
#[inline]
fn begin<'py>(
    value: &Bound<'py, PyAny>,
    depth: usize,
    sink: &mut impl Sink,
) -> Result<Option<Rest<'py>>, Fault> {
    sink.room()?;
    if depth < MAX_DEPTH && sink.whole(value) {
        return Ok(None);
    }
    match Json::of(value)? {
        Json::Null => sink.scalar(Scalar::Null)?,
        Json::Bool(value) => sink.scalar(Scalar::Bool(value))?,
        Json::Int(value) => sink.scalar(Scalar::Int(value))?,
        Json::BigInt(value) => sink.big_int(&hexadecimal(value)?)?,
        Json::Float(value) => sink.scalar(Scalar::Float(value))?,
        Json::String(value) => sink.scalar(Scalar::String(value))?,
        Json::List(_) | Json::Map(_) if depth == MAX_DEPTH => {
            return Err(EncodeError::TooDeep.into());
        }
        Json::List(items) => {
            sink.enter_list(items.len())?;
            return Ok(Some(Rest::Items(items.into_iter())));
        }
        Json::Map(mut fields) => {
            sink.enter_map(&mut fields)?;
            return Ok(Some(Rest::Fields(fields.into_iter())));
        }
    }
    Ok(None)
}

/// Returns the fields of any mapping, or `None` if `object` is not one.
pub fn fields<'py>(object: &Bound<'py, PyAny>) -> Result<Option<Fields<'py>>, Fault> {
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        return fields_of_dict(dict).map(Some);
    }
    let Ok(mapping) = object.cast::<PyMapping>() else { return Ok(None) };
    let pairs = mapping.call_method0(interned!(object.py(), "items"))?;
    let mut fields = Fields::new();
    for pair in pairs.try_iter()? {
        let (name, value) = pair?.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        fields.push(field(name, value)?);
        fits(fields.len())?;
    }
    Ok(Some(fields))
}

#[inline]
fn fields_of_dict<'py>(dict: &Bound<'py, PyDict>) -> Result<Fields<'py>, Fault> {
    fits(dict.len())?;
    // Without a GIL, copying is one atomic step, as for a list.
    #[cfg(Py_GIL_DISABLED)]
    let dict = &dict.copy()?;
    dict.iter().map(|(name, value)| field(name, value)).collect()
}

#[inline]
fn field<'py>(
    name: Bound<'py, PyAny>,
    value: Bound<'py, PyAny>,
) -> Result<(Bound<'py, PyString>, Bound<'py, PyAny>), Fault> {
    match name.cast_into::<PyString>() {
        Ok(name) => Ok((name, value)),
        Err(error) => {
            let name = type_name(&error.into_inner());
            Err(Fault::NotStorable(format!(
                "a mapping with a key of type {name}; JSON keys are str"
            )))
        }
    }
}

/// Returns an error if a container of so many items cannot fit: each takes at least one byte.
fn fits(items: usize) -> Result<(), EncodeError> {
    if items > MAX_ENTRY_BYTES { Err(EncodeError::TooLarge) } else { Ok(()) }
}

fn finite<'a, 'py>(value: f64) -> Result<Json<'a, 'py>, Fault> {
    if value.is_finite() { Ok(Json::Float(value)) } else { Err(EncodeError::NotFinite.into()) }
}

/// Returns the hexadecimal digits of an integer of any size, lower-case, with `-` in front of a
/// negative one. Takes time linear in its size.
pub fn hexadecimal(value: &Bound<'_, PyInt>) -> PyResult<String> {
    // The __format__ of int, so that a subclass cannot choose its key.
    let py = value.py();
    py.get_type::<PyInt>()
        .call_method1(interned!(py, "__format__"), (value, interned!(py, "x")))?
        .extract()
}

/// Reads a context that is not None.
#[inline]
pub fn context<'py>(context: &Bound<'py, PyAny>) -> Result<Fields<'py>, Fault> {
    fields(context)
        .map_err(|fault| fault.of("context"))?
        .ok_or_else(|| Fault::WrongType(wrong_type("context", "a mapping or None", context)))
}

/// Returns the fault of an object that is a mapping, but is read as another JSON value.
pub fn not_an_object() -> Fault {
    Fault::NotStorable("decision: it is both a mapping and another JSON value".to_owned())
}

/// Returns whether an object is a dict or another mapping.
pub fn is_mapping(object: &Bound<'_, PyAny>) -> bool {
    object.is_instance_of::<PyDict>() || object.cast::<PyMapping>().is_ok()
}
