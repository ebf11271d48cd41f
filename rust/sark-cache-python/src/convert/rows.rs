//! The rows of a batch argument.

use crate::error::{Fault, wrong_type};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use std::ops::RangeInclusive;

/// Passes each row of a batch to `read`; returns the number of rows.
///
/// A row is a tuple or list of `shape`, as error messages call it, with a length in `lengths`.
#[inline]
pub fn rows<'py>(
    argument: &'static str,
    given: &Bound<'py, PyAny>,
    lengths: &RangeInclusive<usize>,
    shape: &str,
    mut read: impl FnMut(Row<'_, 'py>) -> PyResult<()>,
) -> PyResult<usize> {
    let mut index = 0;
    let mut read_row = |row: Bound<'py, PyAny>| {
        // A list is copied into a tuple, which Python code that runs below cannot change.
        let copied;
        let row = if let Ok(tuple) = row.cast::<PyTuple>() {
            tuple
        } else {
            copied = row.cast::<PyList>().map(PyListMethods::to_tuple).map_err(|_| {
                wrong_type(&format!("{argument}[{index}]"), &format!("a tuple {shape}"), &row)
            })?;
            &copied
        };
        if !lengths.contains(&row.len()) {
            return Err(PyTypeError::new_err(format!(
                "{argument}[{index}] must be a tuple {shape}, not a tuple of {} items",
                row.len()
            )));
        }
        read(Row { argument, index, items: row.as_slice() })?;
        index += 1;
        Ok(())
    };
    if let Ok(list) = given.cast_exact::<PyList>() {
        for row in list {
            read_row(row)?;
        }
    } else {
        let wrong = |_| wrong_type(argument, &format!("a list of tuples {shape}"), given);
        for row in given.try_iter().map_err(wrong)? {
            // Read one by one: an iterable without end still stops at its first wrong row.
            read_row(row?)?;
        }
    }
    Ok(index)
}

/// One row of a batch.
#[derive(Clone, Copy)]
pub struct Row<'r, 'py> {
    argument: &'static str,
    index: usize,
    pub items: &'r [Bound<'py, PyAny>],
}

impl<'r, 'py> Row<'r, 'py> {
    /// Returns an item, unless it is omitted or None.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&'r Bound<'py, PyAny>> {
        self.items.get(at).filter(|item| !item.is_none())
    }

    /// Reads user, action and resource.
    #[inline]
    pub fn fields(&self) -> Result<[&'r Bound<'py, PyString>; 3], Fault> {
        Ok([self.field(0)?, self.field(1)?, self.field(2)?])
    }

    /// Reads the user, the action or the resource.
    #[inline]
    pub fn field(&self, at: usize) -> Result<&'r Bound<'py, PyString>, Fault> {
        self.items[at].cast().map_err(|_| Fault::WrongType(self.wrong_field(at)))
    }

    #[cold]
    fn wrong_field(&self, at: usize) -> PyErr {
        let name = ["user_id", "action", "resource"][at];
        let argument = format!("{}[{}]: {name}", self.argument, self.index);
        wrong_type(&argument, "a str", &self.items[at])
    }
}
