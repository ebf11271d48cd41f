//! `AsyncCache`: the general cache, which raises what it cannot do.

use crate::awaitable::{awaitable, ready};
use crate::error::{Fault, wrong_type};
use crate::key::general;
use crate::value::Stored;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};
use sark_cache_core::{Cache, Eviction, KeyWriter, Options, Refused, Scope, poll_once};
use std::sync::Arc;
use std::time::Duration;

/// Python's None; Rust's `()` would become an empty tuple.
pub const NOTHING: Option<bool> = None;
/// The longest time to live that is told apart from an endless one: a hundred years.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Below this not even one small entry would fit.
const LEAST_MAX_BYTES: u64 = 1024;
const MOST: u64 = 1 << 62;

/// An asynchronous cache of JSON values in this process's memory.
///
/// Keys are a str or a tuple of JSON values, values are JSON. Every method acts when it is called
/// and returns an awaitable of its result; a hit is ready at once. `max_size` is the most entries,
/// `ttl_seconds` how long one lives unless `set` says otherwise, `max_bytes` the most bytes
/// (counting keys, values and 400 bytes an entry), `eviction` what leaves a full cache first,
/// "lru" or "`tiny_lfu`". An argument that cannot be used is a `TypeError` or a `ValueError` that
/// names it.
#[pyclass(frozen, weakref, module = "sark_cache._native")]
pub struct AsyncCache {
    cache: Arc<Cache<Stored>>,
    ttl: Duration,
}

#[pymethods]
impl AsyncCache {
    #[new]
    #[pyo3(
        signature = (max_size = None, ttl_seconds = None, *, max_bytes = None, eviction = None),
        text_signature = "(max_size=10000, ttl_seconds=300.0, *, max_bytes=None, eviction='lru')"
    )]
    fn new(
        max_size: Option<&Bound<'_, PyAny>>,
        ttl_seconds: Option<&Bound<'_, PyAny>>,
        max_bytes: Option<&Bound<'_, PyAny>>,
        eviction: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        Ok(Self {
            cache: Arc::new(Cache::new(options(max_size, max_bytes, eviction)?)),
            ttl: default_ttl(ttl_seconds)?,
        })
    }

    /// The value under `key`, a new object; None if there is none. Costs about a microsecond.
    fn get<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let started = self.cache.stats().start();
        // Never pending; should moka change that, a miss is the safe answer.
        let found = general(key, |key| poll_once(self.cache.get(key.as_bytes())).flatten())?;
        let value = match found {
            Some(entry) => ready(py, entry.value().to_python(py)?),
            None => ready(py, py.None()),
        };
        self.cache.stats().stop(started);
        value
    }

    /// Stores a snapshot of `value` under `key` for `ttl_seconds`; 0 stores nothing.
    ///
    /// Raises `ValueError` for a value that is not JSON or, with its key, over 64 KiB.
    #[pyo3(signature = (key, value, ttl_seconds = None))]
    fn set<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        ttl_seconds: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let stamp = self.cache.stamp();
        let ttl = ttl(ttl_seconds)?.unwrap_or(self.ttl);
        let key = general(key, KeyWriter::to_key)?;
        let value = Stored::from_python(value)?;
        let cache = Arc::clone(&self.cache);
        awaitable(py, async move {
            match cache.insert(key, value, ttl, &[], stamp).await {
                Ok(()) | Err(Refused::NoTimeToLive | Refused::Overtaken) => Ok(NOTHING),
                Err(refused) => Err(Fault::from(refused).into()),
            }
        })
    }

    /// Removes the entry under `key`; True if it was there.
    fn delete<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let removed = general(key, |key| self.cache.remove(key.as_bytes()))?;
        awaitable(py, async move { Ok(removed.await) })
    }

    /// Removes all entries; returns how many there were.
    fn clear<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let cleared = self.cache.invalidate(Scope::Everything);
        awaitable(py, async move { Ok(cleared.await) })
    }

    /// The number of live entries. Visits them all, off the event loop if they are many.
    fn size<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let cache = Arc::clone(&self.cache);
        awaitable(py, async move { Ok(cache.live().await) })
    }

    /// Removes the expired entries; returns how many there were. Visits all.
    fn cleanup_expired<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let cache = Arc::clone(&self.cache);
        awaitable(py, async move { Ok(cache.cleanup_expired().await) })
    }
}

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
        max_size: at_least("max_size", max_size, 1, "entries")?.unwrap_or(10_000),
        max_bytes: at_least("max_bytes", max_bytes, LEAST_MAX_BYTES, "bytes")?,
        eviction,
    })
}

fn at_least(
    argument: &str,
    given: Option<&Bound<'_, PyAny>>,
    least: u64,
    unit: &str,
) -> PyResult<Option<u64>> {
    let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(None) };
    if !given.is_instance_of::<PyInt>() || given.is_instance_of::<PyBool>() {
        return Err(wrong_type(argument, "an int or None", given));
    }
    match given.extract::<u64>() {
        Ok(number) if (least..=MOST).contains(&number) => Ok(Some(number)),
        _ => Err(PyValueError::new_err(format!(
            "{argument} must be at least {least} and at most 2**62 {unit}, not {given}"
        ))),
    }
}

/// The time to live of a cache: 300 s unless given.
pub fn default_ttl(given: Option<&Bound<'_, PyAny>>) -> PyResult<Duration> {
    match ttl(given)? {
        Some(Duration::ZERO) => Err(PyValueError::new_err(
            "ttl_seconds of a cache must be more than 0; to store nothing use enabled=False",
        )),
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
