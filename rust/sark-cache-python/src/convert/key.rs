//! Canonical key bytes of Python arguments.

use crate::convert::arguments::{Policy, Request};
use crate::convert::flat_dict::{self, FlatDict, Scalar};
use crate::convert::json::{self, Fields, Sink, walk, walk_fields};
use crate::convert::rows::Row;
use crate::error::{Fault, text, text_of_part, wrong_type};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use sark_cache_core::limits::{MAX_FIELD_BYTES, MAX_POLICY_BYTES};
use sark_cache_core::{EncodeError, KeyWriter};
use std::cell::Cell;

thread_local! {
    /// The buffer of the last key that this thread wrote; the next one reuses it.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer with a larger capacity is not kept.
const MAX_KEPT_BYTES: usize = 4096;

/// Writes a key into the buffer of this thread and passes it to `using`.
#[inline]
fn written<R>(
    write: impl FnOnce(&mut KeyWriter) -> Result<(), Fault>,
    using: impl FnOnce(&KeyWriter) -> R,
) -> Result<R, Fault> {
    // Taken, not borrowed: `write` may run Python code that writes another key.
    let mut writer = KeyWriter::with_buffer(BUFFER.take());
    let result = write(&mut writer).map(|()| using(&writer));
    let buffer = writer.into_buffer();
    if buffer.capacity() <= MAX_KEPT_BYTES {
        BUFFER.set(buffer);
    }
    result
}

/// Writes the key of a request and passes it to `using`.
#[inline]
pub fn request<R>(
    Request { policy, fields: [user_id, action, resource], context }: Request<'_, '_>,
    using: impl FnOnce(&KeyWriter) -> R,
) -> Result<R, Fault> {
    let write_request = |writer: &mut KeyWriter| {
        let begun = begin(writer, policy, user_id, action);
        finish(writer, begun, resource, context)
    };
    written(write_request, using)
}

#[inline]
fn begin(
    writer: &mut KeyWriter,
    policy: Policy<'_, '_>,
    user_id: &Bound<'_, PyString>,
    action: &Bound<'_, PyString>,
) -> Result<(), Fault> {
    if let Some(policy) = policy {
        writer.policy(text_of_part("policy", &policy, MAX_POLICY_BYTES)?)?;
    }
    let user_id = text_of_part("user_id", user_id, MAX_FIELD_BYTES)?;
    let action = text_of_part("action", action, MAX_FIELD_BYTES)?;
    Ok(writer.begin_request(user_id, action)?)
}

#[inline]
fn write_resource(writer: &mut KeyWriter, resource: &Bound<'_, PyString>) -> Result<(), Fault> {
    Ok(writer.resource(text_of_part("resource", resource, MAX_FIELD_BYTES)?)?)
}

/// Writes the rest of a request. A fault of the context takes precedence over a fault in `begun`,
/// since it may be a wrong type, which raises.
#[inline]
fn finish(
    writer: &mut KeyWriter,
    begun: Result<(), Fault>,
    resource: &Bound<'_, PyString>,
    context: Option<&Bound<'_, PyAny>>,
) -> Result<(), Fault> {
    // Most requests have no context, and moving its empty fields would slow down a lookup.
    let Some(context) = context.filter(|context| !context.is_none()) else {
        begun?;
        return write_resource(writer, resource);
    };
    // A dict is not a wrong type, so its fault cannot take precedence.
    if context.is_exact_instance_of::<PyDict>() {
        begun?;
        write_resource(writer, resource)?;
        let mut fields = FlatDict::new();
        // SAFETY: writing the fields runs no Python code and creates no Python object.
        return match unsafe { flat_dict::read(context, &mut fields) } {
            Some(()) if fields.is_empty() => Ok(()),
            Some(()) => Ok(writer.map(&mut fields, write_scalar)?),
            None => write_context(writer, json::context(context)?),
        };
    }
    let context = json::context(context)?;
    begun?;
    write_resource(writer, resource)?;
    write_context(writer, context)
}

/// Writes a context. An empty one is the same as none.
fn write_context(writer: &mut KeyWriter, context: Fields<'_>) -> Result<(), Fault> {
    if context.is_empty() {
        return Ok(());
    }
    walk_fields(context, writer).map_err(|fault| fault.of("context"))
}

/// The writer of the keys of a batch, all under one policy. If user and action of a row are the same
/// objects as in the previous row, they are neither checked nor written again.
pub struct Keys<'a, 'py> {
    policy: Policy<'a, 'py>,
    writer: KeyWriter,
    begun: Option<Begun<'py>>,
}

struct Begun<'py> {
    user_id: Bound<'py, PyAny>,
    action: Bound<'py, PyAny>,
    bytes: usize,
}

impl<'a, 'py> Keys<'a, 'py> {
    pub fn of(policy: Policy<'a, 'py>) -> Self {
        Self { policy, writer: KeyWriter::new(), begun: None }
    }

    /// Writes the key of the next row. Returns the writer, which has it.
    #[inline]
    pub fn next(&mut self, row: Row<'_, 'py>) -> Result<&KeyWriter, Fault> {
        let [user_id, action] = [&row.items[0], &row.items[1]];
        if let Some(begun) = &self.begun
            && begun.user_id.is(user_id)
            && begun.action.is(action)
        {
            self.writer.truncate(begun.bytes);
            finish(&mut self.writer, Ok(()), row.field(2)?, row.get(3))?;
        } else {
            self.begin(row)?;
        }
        Ok(&self.writer)
    }

    /// Writes the key of a request for a resource, by the user and for the action of all the others.
    #[inline]
    pub fn of_resource(
        &mut self,
        [user_id, action]: [&Bound<'py, PyString>; 2],
        resource: &Bound<'py, PyString>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> Result<&KeyWriter, Fault> {
        if let Some(begun) = &self.begun {
            self.writer.truncate(begun.bytes);
            finish(&mut self.writer, Ok(()), resource, context)?;
        } else {
            self.begin_with([user_id, action, resource], context)?;
        }
        Ok(&self.writer)
    }

    fn begin(&mut self, row: Row<'_, 'py>) -> Result<(), Fault> {
        self.begin_with(row.fields()?, row.get(3))
    }

    fn begin_with(
        &mut self,
        [user_id, action, resource]: [&Bound<'py, PyString>; 3],
        context: Option<&Bound<'py, PyAny>>,
    ) -> Result<(), Fault> {
        self.writer.truncate(0);
        let begun = begin(&mut self.writer, self.policy, user_id, action);
        self.begun = begun.is_ok().then(|| Begun {
            user_id: user_id.clone().into_any(),
            action: action.clone().into_any(),
            bytes: self.writer.as_bytes().len(),
        });
        finish(&mut self.writer, begun, resource, context)
    }
}

/// Writes the key of an entry of the general cache, a str or a tuple of JSON values, and passes it to
/// `using`.
pub fn general<R>(key: &Bound<'_, PyAny>, using: impl FnOnce(&KeyWriter) -> R) -> Result<R, Fault> {
    if !key.is_instance_of::<PyString>() && !key.is_instance_of::<PyTuple>() {
        return Err(Fault::WrongType(wrong_type("key", "a str or a tuple of JSON values", key)));
    }
    let write_key = |writer: &mut KeyWriter| {
        writer.general();
        walk(key, writer)
    };
    written(write_key, using)
}

impl Sink for KeyWriter {
    fn room(&self) -> Result<(), EncodeError> {
        self.check_room(0)
    }

    fn scalar(&mut self, scalar: Scalar<'_>) -> Result<(), EncodeError> {
        write_scalar(self, scalar)
    }

    fn big_int(&mut self, digits: &str) -> Result<(), EncodeError> {
        self.big_int(digits)
    }

    fn enter_list(&mut self, items: usize) -> Result<(), EncodeError> {
        self.enter_list(items)
    }

    /// Sorts the fields by their names.
    fn enter_map(&mut self, fields: &mut Fields<'_>) -> Result<(), Fault> {
        for (name, _) in &*fields {
            text(name)?;
        }
        fields.sort_unstable_by(|one, other| name_of(one).cmp(name_of(other)));
        if fields.windows(2).any(|pair| name_of(&pair[0]) == name_of(&pair[1])) {
            return Err(EncodeError::DuplicateKey.into());
        }
        Ok(KeyWriter::enter_map(self, fields.len())?)
    }

    fn name(&mut self, name: &Bound<'_, PyString>) -> Result<(), Fault> {
        Ok(self.name(text(name)?)?)
    }

    fn leave(&mut self) {
        self.leave();
    }
}

/// Returns the name of a field whose text was read before, so that it cannot fail.
fn name_of<'a>((name, _): &'a (Bound<'_, PyString>, Bound<'_, PyAny>)) -> &'a str {
    name.to_str().unwrap_or_default()
}

fn write_scalar(writer: &mut KeyWriter, scalar: Scalar<'_>) -> Result<(), EncodeError> {
    match scalar {
        Scalar::Null => writer.null(),
        Scalar::Bool(value) => writer.bool(value),
        Scalar::Int(value) => writer.int(value),
        Scalar::Float(value) => return writer.float(value),
        Scalar::String(value) => return writer.string(value),
    }
    Ok(())
}
