//! Arguments of the Python methods: one function reads and checks each kind. Its error names the
//! argument.

use crate::error::wrong_type;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};
use sark_cache_core::{Eviction, Options};
use std::convert::Infallible;
use std::time::Duration;

/// The default of `max_size`.
pub const DEFAULT_MAX_SIZE: u64 = 10_000;
/// The default TTL of a cache.
pub const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// The maximum TTL: 100 years. Longer values are clamped to it.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// The minimum of `max_bytes`; with less, not even one small entry would fit.
pub const MIN_MAX_BYTES: u64 = 1024;
/// The maximum of `max_size` and `max_bytes`.
pub const MAX_CAPACITY: u64 = 1 << 62;
/// Follows the error for a limit of zero.
const TO_STORE_NOTHING: &str = "; to store nothing use enabled=False";

/// Reads the limits and the eviction policy of a cache from the arguments of its constructor.
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
    let max_size = limit("max_size", max_size, 1, "entries", TO_STORE_NOTHING)?;
    let max_bytes = limit("max_bytes", max_bytes, MIN_MAX_BYTES, "bytes", "")?;
    let of_size = Options::new(max_size.unwrap_or(DEFAULT_MAX_SIZE));
    Ok(Options { max_bytes, eviction, ..of_size })
}

/// Reads a limit of at least `min`; None if it is omitted. `cure` ends the error text.
fn limit(
    argument: &str,
    given: Option<&Bound<'_, PyAny>>,
    min: u64,
    unit: &str,
    cure: &str,
) -> PyResult<Option<u64>> {
    let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(None) };
    if !given.is_instance_of::<PyInt>() || given.is_instance_of::<PyBool>() {
        return Err(wrong_type(argument, "an int or None", given));
    }
    match given.extract::<u64>() {
        Ok(number) if (min..=MAX_CAPACITY).contains(&number) => Ok(Some(number)),
        _ => Err(PyValueError::new_err(format!(
            "{argument} must be at least {min} and at most 2**62 {unit}, not {given}{cure}"
        ))),
    }
}

/// Reads the default time to live of a cache: [`DEFAULT_TTL`] if it is omitted.
pub fn default_ttl(given: Option<&Bound<'_, PyAny>>) -> PyResult<Duration> {
    match ttl(given)? {
        Some(Duration::ZERO) => Err(PyValueError::new_err(format!(
            "ttl_seconds of a cache must be more than 0{TO_STORE_NOTHING}"
        ))),
        given => Ok(given.unwrap_or(DEFAULT_TTL)),
    }
}

/// Reads a time to live in seconds, whole or fractional. More than 100 years are clamped to 100 years.
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
    let ttl = Duration::try_from_secs_f64(seconds).unwrap_or(MAX_TTL).min(MAX_TTL);
    // A positive time of less than a nanosecond is not 0, which would store nothing.
    Ok(Some(if seconds > 0.0 { ttl.max(Duration::from_nanos(1)) } else { ttl }))
}

/// A keyword argument that tells `None` from an omitted one.
#[derive(Clone, Copy, Default)]
pub struct Given<'a, 'py>(pub Option<Borrowed<'a, 'py, PyAny>>);

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'a, 'py> {
    type Error = Infallible;

    #[inline]
    fn extract(given: Borrowed<'a, 'py, PyAny>) -> Result<Self, Infallible> {
        Ok(Self(Some(given)))
    }
}

/// The name of a policy; `None` is the empty name.
pub type Policy<'a, 'py> = Option<Borrowed<'a, 'py, PyString>>;

/// A request for a decision: may this user perform this action on this resource, in this context and
/// under this policy? The context is not yet read.
#[derive(Clone, Copy)]
pub struct Request<'a, 'py> {
    pub policy: Policy<'a, 'py>,
    /// User, action and resource.
    pub fields: [&'a Bound<'py, PyString>; 3],
    pub context: Option<&'a Bound<'py, PyAny>>,
}

/// The unchecked arguments of a request.
#[derive(Clone, Copy)]
pub struct RequestArguments<'a, 'py> {
    /// User, action and resource.
    pub fields: [&'a Bound<'py, PyAny>; 3],
    pub context: Option<&'a Bound<'py, PyAny>>,
    pub policy: Given<'a, 'py>,
}

impl<'a, 'py> RequestArguments<'a, 'py> {
    /// Checks the types of the fields and of the policy. The context is read when the key is written.
    #[inline]
    pub fn read(self) -> PyResult<Request<'a, 'py>> {
        let [user_id, action, resource] = self.fields;
        let fields = fields(user_id, action, resource)?;
        Ok(Request { policy: policy(self.policy)?, fields, context: self.context })
    }
}

/// Reads the policy of a request; the empty name if it is omitted.
#[inline]
pub fn policy<'a, 'py>(Given(given): Given<'a, 'py>) -> PyResult<Policy<'a, 'py>> {
    given.map(|given| given.cast().map_err(|_| wrong_type("policy", "a str", &given))).transpose()
}

/// Reads user, action and resource of a request.
#[inline]
pub fn fields<'a, 'py>(
    user_id: &'a Bound<'py, PyAny>,
    action: &'a Bound<'py, PyAny>,
    resource: &'a Bound<'py, PyAny>,
) -> PyResult<[&'a Bound<'py, PyString>; 3]> {
    Ok([string("user_id", user_id)?, string("action", action)?, string("resource", resource)?])
}

/// Reads a str.
#[inline]
pub fn string<'a, 'py>(
    argument: &str,
    given: &'a Bound<'py, PyAny>,
) -> PyResult<&'a Bound<'py, PyString>> {
    given.cast().map_err(|_| wrong_type(argument, "a str", given))
}

/// Reads a str or None.
pub fn optional<'a, 'py>(
    argument: &str,
    given: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<Option<&'a Bound<'py, PyString>>> {
    given
        .map(|given| given.cast().map_err(|_| wrong_type(argument, "a str or None", given)))
        .transpose()
}

/// Reads a bool.
pub fn boolean(argument: &str, given: &Bound<'_, PyAny>) -> PyResult<bool> {
    given.extract().map_err(|_| wrong_type(argument, "True or False", given))
}

/// Reads a loader. Its return value is checked when it is called.
pub fn loader<'a, 'py>(given: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyAny>> {
    if given.is_callable() {
        return Ok(given);
    }
    Err(wrong_type("loader", "an async function without arguments", given))
}
