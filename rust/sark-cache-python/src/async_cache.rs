//! `AsyncCache`: the general cache. Unlike a policy cache, it raises an error for each value that
//! it cannot use.

use crate::awaitable::{NOTHING, awaitable, poll_or_block, ready};
use crate::convert::arguments::{self, default_ttl, options, ttl};
use crate::convert::key::general;
use crate::error::Fault;
use crate::load::lifetime::Lifetime;
use crate::load::owner::{OnFault, Owner, Switch};
use crate::load::registry::LoadRegistry;
use crate::load::{Load, LoadRequest};
use crate::value::Stored;
use pyo3::prelude::*;
use sark_cache_core::{Cache, InsertError, KeyWriter, Scope, Tags, poll_once};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// An asynchronous cache of JSON values in this process's memory.
///
/// A key is a str or a tuple of JSON values. A value is JSON. Every method acts when it is called,
/// and returns an awaitable of its result. A hit is ready at once.
///
/// - `max_size` is the maximum number of entries.
/// - `ttl_seconds` is the time to live of entries for which `set` gives none.
/// - `max_bytes` is the maximum size in bytes: keys, values and 520 bytes per entry.
/// - `eviction` is the entry that a full cache evicts first: "lru" or "`tiny_lfu`".
///
/// A wrong argument raises a `TypeError` or a `ValueError` that names it.
#[pyclass(frozen, weakref, module = "sark_cache._native")]
pub struct AsyncCache {
    cache: Arc<Cache<Stored>>,
    loads: Arc<LoadRegistry>,
    /// Always on. A load stores its value only if the switch of its cache is on.
    switch: Arc<Switch>,
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
        let ttl = default_ttl(ttl_seconds)?;
        let cache = Arc::new(Cache::new(options(max_size, max_bytes, eviction)?));
        let (loads, switch) = (LoadRegistry::new(&cache), Arc::new(Switch::new(true)));
        Ok(Self { cache, loads, switch, ttl })
    }

    /// Returns the value under `key` as a new object, or None. Takes about a microsecond.
    fn get<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let started = self.cache.stats().start();
        // Never pending. If moka changes that, a miss is the safe answer.
        let found = general(key, |key| poll_once(self.cache.get(key.as_bytes())).flatten())?;
        let value = match found {
            Some(entry) => ready(py, entry.value().to_python(py)?),
            None => ready(py, py.None()),
        };
        self.cache.stats().stop(started);
        value
    }

    /// Stores a snapshot of `value` under `key` for `ttl_seconds`. With 0, nothing is stored.
    ///
    /// Raises `ValueError` if the value is not JSON, or is larger than 64 KiB with its key.
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
        self.loads.supersede(key.as_bytes());
        let value = Stored::from_python(value)?;
        let insert = pin!(self.cache.insert(key, value, ttl, Tags::default(), stamp));
        match poll_or_block(py, insert, || _ = self.cache.maintain()) {
            Ok(()) | Err(InsertError::NoTimeToLive | InsertError::Invalidated) => {
                ready(py, NOTHING)
            }
            Err(refused) => Err(Fault::from(refused).into()),
        }
    }

    /// Returns the value under `key`. On a miss, runs the loader and stores its value for
    /// `ttl_seconds`.
    #[pyo3(signature = (key, loader, ttl_seconds = None))]
    fn get_or_load<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        loader: &Bound<'py, PyAny>,
        ttl_seconds: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let loader = arguments::loader(loader)?;
        let given = ttl(ttl_seconds)?;
        let found = general(key, |key| {
            poll_once(this.cache.get(key.as_bytes())).flatten().ok_or_else(|| key.to_key())
        });
        match found? {
            Ok(entry) => ready(py, entry.value().to_python(py)?),
            Err(key) => {
                let request = LoadRequest {
                    owner: Owner {
                        object: slf.clone().into_any().unbind(),
                        switch: Arc::clone(&this.switch),
                        on_fault: OnFault::Raise,
                    },
                    cache: Arc::clone(&this.cache),
                    loads: Arc::clone(&this.loads),
                    key,
                    lifetime: Lifetime { given, default: this.ttl, max: Duration::MAX },
                    tags: Tags::default(),
                    loader: loader.clone().unbind(),
                };
                Load::value(py, request)
            }
        }
    }

    /// Returns the number of requests, since the last call, that waited too long for another
    /// request's load and evaluated themselves.
    fn _take_overdue(&self) -> u64 {
        self.cache.stats().counters.overdue.take()
    }

    /// Removes the entry under `key`. Returns True if there was one.
    fn delete<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let removed = general(key, |key| self.cache.remove(key.as_bytes()))?;
        awaitable(py, async move { Ok(removed.await) })
    }

    /// Removes all entries. Returns the number of entries removed.
    fn clear<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let cleared = self.cache.invalidate(Scope::Everything);
        awaitable(py, async move { Ok(cleared.await) })
    }

    /// Returns the number of entries that have not expired. Visits every entry. If there are many,
    /// another thread visits them, not the event loop's.
    fn size<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let cache = Arc::clone(&self.cache);
        awaitable(py, async move { Ok(cache.count_live().await) })
    }

    /// Removes expired entries. Returns the number of entries removed. Visits every entry.
    fn cleanup_expired<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let cache = Arc::clone(&self.cache);
        awaitable(py, async move { Ok(cache.cleanup_expired().await) })
    }
}
