//! What the methods take: each kind of argument is read and checked once, here, with an error that
//! names it.

use crate::convert::key::Policy;
use crate::error::{Fault, text_within, wrong_type};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyList, PyString, PyTuple};
use sark_cache_core::limits::{MAX_REVOKED_TAGS, MAX_TAG_BYTES, MAX_TAGS};
use sark_cache_core::{Eviction, Options, Refused};
use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest time to live that is told apart from an endless one: a hundred years.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Below this not even one small entry would fit.
const LEAST_MAX_BYTES: u64 = 1024;
const MOST: u64 = 1 << 62;
/// The cure for a limit of zero.
const TO_STORE_NOTHING: &str = "; to store nothing use enabled=False";

/// The limits and the policy of a cache, from the arguments of its constructor.
pub fn options(
    max_size: Option<&Bound<'_, PyAny>>,
    max_bytes: Option<&Bound<'_, PyAny>>,
    eviction: Option<&Bound<'_, PyAny>>,
) -> PyResult<Options> {
    let eviction = match eviction.filter(|name| !name.is_none()) {
        None => Eviction::Lru,
        Some(name) => {
            let name = name
                .cast::<PyString>()
                .map_err(|_| wrong_type("eviction", "\"lru\" or \"tiny_lfu\"", name))?;
            match name.to_str()? {
                "lru" => Eviction::Lru,
                "tiny_lfu" => Eviction::TinyLfu,
                other => {
                    return Err(PyValueError::new_err(format!(
                        "eviction must be \"lru\" or \"tiny_lfu\", not {other:?}"
                    )));
                }
            }
        }
    };
    Ok(Options {
        max_size: at_least("max_size", max_size, 1, "entries", TO_STORE_NOTHING)?.unwrap_or(10_000),
        max_bytes: at_least("max_bytes", max_bytes, LEAST_MAX_BYTES, "bytes", "")?,
        eviction,
    })
}

fn at_least(
    argument: &str,
    given: Option<&Bound<'_, PyAny>>,
    least: u64,
    unit: &str,
    cure: &str,
) -> PyResult<Option<u64>> {
    let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(None) };
    if !given.is_instance_of::<PyInt>() || given.is_instance_of::<PyBool>() {
        return Err(wrong_type(argument, "an int or None", given));
    }
    match given.extract::<u64>() {
        Ok(number) if (least..=MOST).contains(&number) => Ok(Some(number)),
        _ => Err(PyValueError::new_err(format!(
            "{argument} must be at least {least} and at most 2**62 {unit}, not {given}{cure}"
        ))),
    }
}

/// The time to live of a cache: 300 s unless given.
pub fn default_ttl(given: Option<&Bound<'_, PyAny>>) -> PyResult<Duration> {
    match ttl(given)? {
        Some(Duration::ZERO) => Err(PyValueError::new_err(format!(
            "ttl_seconds of a cache must be more than 0{TO_STORE_NOTHING}"
        ))),
        given => Ok(given.unwrap_or(Duration::from_secs(300))),
    }
}

/// A time to live in seconds, whole or fractional; beyond a hundred years it is a hundred years.
pub fn ttl(given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(None) };
    let seconds = match given.extract::<f64>() {
        _ if given.is_instance_of::<PyBool>() => None,
        Err(error) if error.is_instance_of::<PyOverflowError>(given.py()) => {
            Some(if given.lt(0)? { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        seconds => seconds.ok(),
    };
    let seconds =
        seconds.ok_or_else(|| wrong_type("ttl_seconds", "a number of seconds or None", given))?;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "ttl_seconds must be a number of seconds, 0 or more, not {seconds}"
        )));
    }
    let ttl = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_TTL).min(LONGEST_TTL);
    // Less than a nanosecond is still not nothing.
    Ok(Some(if seconds > 0.0 { ttl.max(Duration::from_nanos(1)) } else { ttl }))
}

/// What a keyword was given, `None` included, or nothing.
#[derive(Clone, Copy, Default)]
pub struct Given<'a, 'py>(Option<Borrowed<'a, 'py, PyAny>>);

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'a, 'py> {
    type Error = Infallible;

    #[inline]
    fn extract(given: Borrowed<'a, 'py, PyAny>) -> Result<Self, Infallible> {
        Ok(Self(Some(given)))
    }
}

/// The policy of a request: the empty one unless another is given.
#[inline]
pub fn policy<'a, 'py>(Given(given): Given<'a, 'py>) -> PyResult<Policy<'a, 'py>> {
    given.map(|given| given.cast().map_err(|_| wrong_type("policy", "a str", &given))).transpose()
}

/// User, action and resource of a request.
#[inline]
pub fn fields<'a, 'py>(
    user_id: &'a Bound<'py, PyAny>,
    action: &'a Bound<'py, PyAny>,
    resource: &'a Bound<'py, PyAny>,
) -> PyResult<[&'a Bound<'py, PyString>; 3]> {
    Ok([string("user_id", user_id)?, string("action", action)?, string("resource", resource)?])
}

#[inline]
pub fn string<'a, 'py>(
    argument: &str,
    given: &'a Bound<'py, PyAny>,
) -> PyResult<&'a Bound<'py, PyString>> {
    given.cast().map_err(|_| wrong_type(argument, "a str", given))
}

pub fn optional<'a, 'py>(
    argument: &str,
    given: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<Option<&'a Bound<'py, PyString>>> {
    given
        .map(|given| given.cast().map_err(|_| wrong_type(argument, "a str or None", given)))
        .transpose()
}

pub fn boolean(argument: &str, given: &Bound<'_, PyAny>) -> PyResult<bool> {
    given.extract().map_err(|_| wrong_type(argument, "True or False", given))
}

/// A loader; what it returns is looked at when it is called.
pub fn loader<'a, 'py>(given: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyAny>> {
    if given.is_callable() {
        return Ok(given);
    }
    Err(wrong_type("loader", "an async function without arguments", given))
}

/// The names in a `tags` argument, read once.
#[derive(Default)]
pub struct Tags {
    pub names: Vec<String>,
    /// Why some of them cannot be stored with a decision, and never were.
    reason: Option<String>,
}

impl Tags {
    /// The tags of a decision. One more than it can have is enough to see that they are too many.
    pub fn of_decision(given: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(given) = given.filter(|given| !given.is_none()) else {
            return Ok(Self::default());
        };
        let (mut tags, read) = Self::read(given, MAX_TAGS)?;
        if read > MAX_TAGS {
            tags.reason = Some(Refused::TooManyTags.to_string());
        }
        Ok(tags)
    }

    /// The tags that a revocation names; `None` unless some were given.
    pub fn to_revoke(Given(given): Given<'_, '_>) -> PyResult<Option<Self>> {
        let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(None) };
        match Self::read(&given, MAX_REVOKED_TAGS)? {
            (_, 0) => Err(PyValueError::new_err(
                "tags must name at least one tag: leave them out to revoke whatever the tags, and \
                 use clear() to revoke everything",
            )),
            (_, read) if read > MAX_REVOKED_TAGS => Err(PyValueError::new_err(
                "tags must be at most 10,000 in one revocation: use several",
            )),
            (tags, _) => Ok(Some(tags)),
        }
    }

    /// Takes any iterable of str but a bare string, which would be taken for its letters. Returns
    /// the first `most` tags and how many were read, which is one more if there are more.
    fn read(given: &Bound<'_, PyAny>, most: usize) -> PyResult<(Self, usize)> {
        let wrong = || wrong_type("tags", "a list, tuple or set of str", given);
        if given.is_instance_of::<PyString>() || given.is_instance_of::<PyDict>() {
            return Err(wrong());
        }
        let mut read = (Self::default(), 0);
        for tag in given.try_iter().map_err(|_| wrong())?.take(most + 1) {
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

    /// Whether all of them can be stored.
    pub fn all(&self) -> Result<(), Fault> {
        self.reason.clone().map_or(Ok(()), |reason| Err(Fault::NotJson(reason)))
    }
}

/// Hands the rows of a batch, tuples or lists of `shape`, to `read`, one after the other. At least
/// the first `lengths.start()` items of a row are there. Returns how many rows there were.
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
        // What a tuple holds stays what it is whatever code runs meanwhile.
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
                "{argument}[{index}] must be a tuple {shape}, not one of {} items",
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
            // Each as it comes: what has no end may at least have a wrong row.
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
    /// What stands there, unless it is left out or None.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&'r Bound<'py, PyAny>> {
        self.items.get(at).filter(|item| !item.is_none())
    }

    /// User, action and resource.
    #[inline]
    pub fn fields(&self) -> Result<[&'r Bound<'py, PyString>; 3], Fault> {
        Ok([self.field(0)?, self.field(1)?, self.field(2)?])
    }

    /// The user, the action or the resource.
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
