//! The `tags` argument.

use crate::convert::arguments::Given;
use crate::error::{Fault, text_within, wrong_type};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use sark_cache_core::InsertError;
use sark_cache_core::limits::{MAX_REVOKED_TAGS, MAX_TAG_BYTES, MAX_TAGS};

/// The tags of an argument, each read once.
#[derive(Default)]
pub struct Tags {
    pub names: Vec<String>,
    /// The reason why a tag cannot be stored with a decision, if there is such a tag.
    reason: Option<String>,
}

impl Tags {
    /// Reads the tags of a decision, at most [`MAX_TAGS`] and one more, which shows that they are too
    /// many.
    pub fn of_decision(given: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(given) = given.filter(|given| !given.is_none()) else {
            return Ok(Self::default());
        };
        let (mut tags, read) = Self::read(given, MAX_TAGS)?;
        if read > MAX_TAGS {
            tags.reason = Some(InsertError::TooManyTags.to_string());
        }
        Ok(tags)
    }

    /// Reads the tags of a revocation; `None` if the argument is omitted or None.
    pub fn to_revoke(Given(given): Given<'_, '_>) -> PyResult<Option<Self>> {
        let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(None) };
        match Self::read(&given, MAX_REVOKED_TAGS)? {
            (_, 0) => Err(PyValueError::new_err(
                "tags must name at least one tag: omit it to revoke regardless of tags, or use \
                 clear() to revoke everything",
            )),
            (_, read) if read > MAX_REVOKED_TAGS => Err(PyValueError::new_err(
                "tags must be at most 10,000 in one revocation: revoke the others in another call",
            )),
            (tags, _) => Ok(Some(tags)),
        }
    }

    /// Reads an iterable of str, but not a str, which would be one tag for each letter. Reads at most
    /// `max` tags and one more; returns them and the number of tags read.
    fn read(given: &Bound<'_, PyAny>, max: usize) -> PyResult<(Self, usize)> {
        let wrong = || wrong_type("tags", "a list, tuple or set of str", given);
        if given.is_instance_of::<PyString>() || given.is_instance_of::<PyDict>() {
            return Err(wrong());
        }
        let mut read = (Self::default(), 0);
        for tag in given.try_iter().map_err(|_| wrong())?.take(max + 1) {
            let tag = tag?;
            let tag = tag.cast::<PyString>().map_err(|_| wrong_type("a tag", "a str", &tag))?;
            match text_within("a tag", tag, MAX_TAG_BYTES) {
                Ok(name) => read.0.names.push(name.to_owned()),
                Err(fault) => read.0.reason = Some(fault.reason(given.py())?),
            }
            read.1 += 1;
        }
        Ok(read)
    }

    /// Returns a fault if a tag cannot be stored.
    pub fn all(&self) -> Result<(), Fault> {
        self.reason.clone().map_or(Ok(()), |reason| Err(Fault::NotStorable(reason)))
    }
}
