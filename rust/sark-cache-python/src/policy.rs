//! `PolicyStore`: what `RustPolicyCache` is built on.
//!
//! It never fails a request: what cannot be looked up is a miss, what cannot be stored is `False`,
//! and both are counted and reported to the Python side, which logs them. Wrong argument types are
//! bugs of the caller and raise.

use crate::awaitable::{awaitable, ready};
use crate::cache::{NOTHING, default_ttl, options, ttl};
use crate::error::{Fault, wrong_type};
use crate::key::request;
use crate::value::Stored;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMapping, PyString, PyTuple};
use sark_cache_core::cache::rest_after;
use sark_cache_core::stats::Latencies;
use sark_cache_core::{Cache, Key, KeyWriter, Refused, Scope, poll_once};
use smallvec::SmallVec;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

type PyAwaitable<'py> = PyResult<Bound<'py, PyAny>>;

/// A moment in the life of one cache: `stamp()` before evaluating, `set(..., stamp=...)` after.
///
#[pyclass(frozen, eq, hash, module = "sark_cache._native")]
#[derive(PartialEq, Eq, Hash)]
pub struct Stamp {
    cache: u64,
    at: sark_cache_core::Stamp,
}

/// Numbers the caches of a process, so that a stamp of one is not taken for one of another.
static CACHES: AtomicU64 = AtomicU64::new(0);

/// The compiled part of `RustPolicyCache`; use that one.
#[pyclass(frozen, subclass, module = "sark_cache._native")]
pub struct PolicyStore {
    cache: Arc<Cache<Stored>>,
    identity: u64,
    enabled: AtomicBool,
    closed: AtomicBool,
    use_optimized_ttl: AtomicBool,
    /// Nanoseconds.
    ttl: AtomicU64,
    max_size: u64,
}

/// One decision on its way in.
struct Incoming {
    key: Key,
    value: Stored,
    ttl: Duration,
}

#[pymethods]
impl PolicyStore {
    #[new]
    #[pyo3(
        signature = (max_size = None, ttl_seconds = None, enabled = true, use_optimized_ttl = true,
                     *, stale_while_revalidate = true, max_bytes = None, eviction = None),
        text_signature = "(max_size=10000, ttl_seconds=300, enabled=True, use_optimized_ttl=True, \
                          *, stale_while_revalidate=True, max_bytes=None, eviction='lru')"
    )]
    fn new(
        max_size: Option<&Bound<'_, PyAny>>,
        ttl_seconds: Option<&Bound<'_, PyAny>>,
        enabled: bool,
        use_optimized_ttl: bool,
        stale_while_revalidate: bool,
        max_bytes: Option<&Bound<'_, PyAny>>,
        eviction: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let _ = stale_while_revalidate; // Kept by the Python side.
        let options = options(max_size, max_bytes, eviction)?;
        let ttl = default_ttl(ttl_seconds)?;
        Ok(Self {
            cache: Arc::new(Cache::new(options)),
            identity: CACHES.fetch_add(1, Ordering::Relaxed),
            enabled: AtomicBool::new(enabled),
            closed: AtomicBool::new(false),
            use_optimized_ttl: AtomicBool::new(use_optimized_ttl),
            ttl: AtomicU64::new(sark_cache_core::clock::nanos(ttl)),
            max_size: options.max_size,
        })
    }

    /// The decision for a request, a new dict, or None. Decided when called; ready at once.
    #[pyo3(signature = (user_id, action, resource, context = None, sensitivity = None))]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        sensitivity: Option<&Bound<'py, PyAny>>,
    ) -> PyAwaitable<'py> {
        let (py, this) = (slf.py(), slf.get());
        let request = fields(user_id, action, resource)?;
        optional("sensitivity", sensitivity)?; // A look-up does not depend on it.
        if !this.serves() {
            return ready(py, py.None());
        }
        let started = this.cache.stats().start();
        let found = this.look_up(py, request, context);
        this.cache.stats().stop(started);
        match found {
            Ok(decision) => ready(py, decision),
            Err(fault) => {
                Self::report(slf, "get", fault)?;
                ready(py, py.None())
            }
        }
    }

    /// Stores a snapshot of a decision. True if it was stored.
    #[pyo3(signature = (user_id, action, resource, decision, context = None, ttl_seconds = None,
                        sensitivity = None, *, tags = None, stamp = None))]
    #[expect(clippy::too_many_arguments, reason = "the public interface")]
    fn set<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
        decision: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        ttl_seconds: Option<&Bound<'py, PyAny>>,
        sensitivity: Option<&Bound<'py, PyAny>>,
        tags: Option<&Bound<'py, PyAny>>,
        stamp: Option<&Bound<'py, PyAny>>,
    ) -> PyAwaitable<'py> {
        let (py, this) = (slf.py(), slf.get());
        let stamp = this.stamp_or_now(stamp)?;
        let request = fields(user_id, action, resource)?;
        let sensitivity = optional("sensitivity", sensitivity)?;
        let ttl = Self::ttl_for(slf, ttl_seconds, sensitivity)?;
        let tags = tag_names(tags)?;
        if !this.serves() {
            return ready(py, false);
        }
        let incoming = match this.incoming(request, decision, context, ttl) {
            Ok(incoming) => incoming,
            Err(fault) => {
                Self::report(slf, "set", fault)?;
                return ready(py, false);
            }
        };
        let cache = Arc::clone(&this.cache);
        awaitable(py, async move {
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            Ok(store(&cache, incoming, &tags, stamp).await)
        })
    }

    /// The stamp of now: take it before evaluating a decision that `set` is to store.
    fn stamp(&self) -> Stamp {
        Stamp { cache: self.identity, at: self.cache.stamp() }
    }

    /// Revokes and removes one decision. True if it was there.
    #[pyo3(signature = (user_id, action, resource, context = None))]
    fn delete<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyAwaitable<'py> {
        let (py, this) = (slf.py(), slf.get());
        let fields = fields(user_id, action, resource)?;
        match request(fields, context, |key| this.cache.remove(key.as_bytes())) {
            Ok(removed) => awaitable(py, async move { Ok(removed.await) }),
            // What has no key was never stored.
            Err(fault) => {
                Self::report(slf, "delete", fault)?;
                ready(py, false)
            }
        }
    }

    /// The decisions for many requests, in their order.
    fn get_batch<'py>(slf: &Bound<'py, Self>, requests: &Bound<'py, PyAny>) -> PyAwaitable<'py> {
        let (py, this) = (slf.py(), slf.get());
        let requests =
            rows("requests", requests, &(3..=4), "(user_id, action, resource, context)")?;
        let decisions = PyList::empty(py);
        if !this.serves() {
            for _ in &requests {
                decisions.append(py.None())?;
            }
            return ready(py, decisions);
        }
        this.cache.stats().counters.batch_operations.increment();
        for row in &requests {
            let started = this.cache.stats().start();
            let found = this.look_up(py, row.fields()?, row.get(3));
            this.cache.stats().stop(started);
            match found {
                Ok(decision) => decisions.append(decision)?,
                Err(fault) => {
                    Self::report(slf, "get_batch", fault)?;
                    decisions.append(py.None())?;
                }
            }
        }
        ready(py, decisions)
    }

    /// Stores many decisions; returns how many were stored.
    fn set_batch<'py>(slf: &Bound<'py, Self>, entries: &Bound<'py, PyAny>) -> PyAwaitable<'py> {
        let (py, this) = (slf.py(), slf.get());
        let stamp = this.cache.stamp();
        let shape = "(user_id, action, resource, decision, context, ttl_seconds)";
        let rows = rows("entries", entries, &(4..=6), shape)?;
        let mut batch = Vec::with_capacity(rows.len());
        for row in &rows {
            let ttl = Self::ttl_for(slf, row.get(5), None)?;
            if !this.serves() {
                continue;
            }
            match this.incoming(row.fields()?, &row.items[3], row.get(4), ttl) {
                Ok(incoming) => batch.push(incoming),
                Err(fault) => Self::report(slf, "set_batch", fault)?,
            }
        }
        if !this.serves() {
            return ready(py, 0);
        }
        this.cache.stats().counters.batch_operations.increment();
        let cache = Arc::clone(&this.cache);
        awaitable(py, async move {
            let mut stored = 0;
            let mut visits = 0;
            for incoming in batch {
                stored += u64::from(store(&cache, incoming, &[], stamp).await);
                rest_after(&mut visits).await;
            }
            Ok(stored)
        })
    }

    /// Revokes every decision that matches all given fields; returns how many entries died.
    #[pyo3(signature = (user_id = None, action = None, resource = None, *, tags = None))]
    fn invalidate<'py>(
        slf: &Bound<'py, Self>,
        user_id: Option<&Bound<'py, PyAny>>,
        action: Option<&Bound<'py, PyAny>>,
        resource: Option<&Bound<'py, PyAny>>,
        tags: Option<&Bound<'py, PyAny>>,
    ) -> PyAwaitable<'py> {
        let tags = tag_names(tags)?;
        let named = [
            optional("user_id", user_id)?,
            optional("action", action)?,
            optional("resource", resource)?,
        ];
        let mut fields = [None; 3];
        for (field, given) in fields.iter_mut().zip(named) {
            *field = given.map(|given| given.to_str()).transpose()?;
        }
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let died = slf.get().cache.invalidate(Scope::of(fields, &tags));
        awaitable(slf.py(), async move { Ok(died.await) })
    }

    /// Revokes every decision whose text key matches a Redis glob; returns how many entries died.
    fn invalidate_pattern<'py>(
        slf: &Bound<'py, Self>,
        pattern: &Bound<'py, PyAny>,
    ) -> PyAwaitable<'py> {
        let pattern = string("pattern", pattern)?;
        let died = slf.get().cache.invalidate_pattern(pattern.to_str()?);
        awaitable(slf.py(), async move { Ok(died.await) })
    }

    /// Revokes and removes all decisions. Always True.
    fn clear<'py>(slf: &Bound<'py, Self>) -> PyAwaitable<'py> {
        let died = slf.get().cache.invalidate(Scope::Everything);
        awaitable(slf.py(), async move {
            died.await;
            Ok(true)
        })
    }

    /// The number of live entries. Visits them all, off the event loop if they are many.
    fn size<'py>(slf: &Bound<'py, Self>) -> PyAwaitable<'py> {
        let cache = Arc::clone(&slf.get().cache);
        awaitable(slf.py(), async move { Ok(cache.live().await) })
    }

    /// Removes the expired entries; returns how many there were. Visits all.
    fn cleanup_expired<'py>(slf: &Bound<'py, Self>) -> PyAwaitable<'py> {
        let cache = Arc::clone(&slf.get().cache);
        awaitable(slf.py(), async move { Ok(cache.cleanup_expired().await) })
    }

    /// Stops serving and drops all entries.
    fn close<'py>(slf: &Bound<'py, Self>) -> PyAwaitable<'py> {
        slf.get().closed.store(true, Ordering::Release);
        let died = slf.get().cache.invalidate(Scope::Everything);
        awaitable(slf.py(), async move {
            died.await;
            Ok(NOTHING)
        })
    }

    /// Adds the duration of one evaluation, in milliseconds.
    fn record_opa_latency(&self, latency_ms: f64) -> PyResult<()> {
        let duration = Duration::try_from_secs_f64(latency_ms / 1e3).map_err(|_| {
            PyValueError::new_err(format!(
                "latency_ms must be a finite number, 0 or more, not {latency_ms}"
            ))
        })?;
        self.cache.stats().evaluations.record(duration);
        Ok(())
    }

    /// Sets every counter and histogram to zero.
    fn reset_metrics(&self) {
        self.cache.reset_stats();
    }

    /// The most entries.
    #[getter]
    fn max_size(&self) -> u64 {
        self.max_size
    }

    /// Whether the cache serves and stores.
    #[getter]
    fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    /// How long an entry lives unless told otherwise, in seconds.
    #[getter]
    #[expect(clippy::cast_precision_loss, reason = "a time to live does not need 53 bits")]
    fn ttl_seconds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        use pyo3::IntoPyObjectExt;
        const SECOND: u64 = 1_000_000_000;
        match self.ttl.load(Ordering::Relaxed) {
            whole if whole.is_multiple_of(SECOND) => (whole / SECOND).into_bound_py_any(py),
            nanos => (nanos as f64 / SECOND as f64).into_bound_py_any(py),
        }
    }

    #[setter]
    fn set_ttl_seconds(&self, ttl_seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        let ttl = default_ttl(Some(ttl_seconds))?;
        self.ttl.store(sark_cache_core::clock::nanos(ttl), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a given sensitivity decides how long an entry lives.
    #[getter]
    fn use_optimized_ttl(&self) -> bool {
        self.use_optimized_ttl.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_use_optimized_ttl(&self, value: bool) {
        self.use_optimized_ttl.store(value, Ordering::Relaxed);
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Every number that the metrics are made of.
    fn _snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let size = self.cache.held();
        let snapshot = self.cache.snapshot();
        let numbers = PyDict::new(py);
        for (name, count) in snapshot.counts.iter() {
            numbers.set_item(name, count)?;
        }
        let Latencies { p50, p95, p99, .. } = snapshot.requests;
        numbers.set_item("size", size)?;
        numbers.set_item("max_size", self.max_size)?;
        numbers.set_item("avg_cache_latency_ms", milliseconds(snapshot.requests))?;
        numbers.set_item("avg_opa_latency_ms", milliseconds(snapshot.evaluations))?;
        for (name, nanos) in [("p50", p50), ("p95", p95), ("p99", p99)] {
            #[expect(clippy::cast_precision_loss, reason = "at most 2^36")]
            numbers.set_item(format!("cache_latency_{name}_us"), nanos as f64 / 1e3)?;
        }
        Ok(numbers)
    }
}

impl PolicyStore {
    fn serves(&self) -> bool {
        self.enabled.load(Ordering::Relaxed) && !self.closed.load(Ordering::Acquire)
    }

    #[inline]
    fn look_up<'py>(
        &self,
        py: Python<'py>,
        fields: [&Bound<'py, PyString>; 3],
        context: Option<&Bound<'py, PyAny>>,
    ) -> Result<Option<Bound<'py, PyAny>>, Fault> {
        // Never pending; should moka change that, a miss is the safe answer.
        let found =
            request(fields, context, |key| poll_once(self.cache.get(key.as_bytes())).flatten());
        match found {
            Ok(Some(entry)) => Ok(Some(entry.value().to_python(py)?)),
            Ok(None) => Ok(None),
            Err(fault) => {
                // What cannot be asked for is a miss; a wrong type is no request at all.
                if !matches!(fault, Fault::WrongType(_)) {
                    self.cache.stats().counters.misses.increment();
                }
                Err(fault)
            }
        }
    }

    fn stamp_or_now(&self, given: Option<&Bound<'_, PyAny>>) -> PyResult<sark_cache_core::Stamp> {
        let Some(given) = given else { return Ok(self.cache.stamp()) };
        let stamp = given
            .cast::<Stamp>()
            .map_err(|_| wrong_type("stamp", "what stamp() returned", given))?;
        if stamp.get().cache != self.identity {
            return Err(PyValueError::new_err("stamp was taken from another cache"));
        }
        Ok(stamp.get().at)
    }

    /// How long an entry lives: as told, else by its sensitivity, else as the cache says.
    fn ttl_for(
        slf: &Bound<'_, Self>,
        given: Option<&Bound<'_, PyAny>>,
        sensitivity: Option<&Bound<'_, PyString>>,
    ) -> PyResult<Duration> {
        let this = slf.get();
        if let Some(given) = ttl(given)? {
            return Ok(given);
        }
        if let Some(sensitivity) = sensitivity
            && this.use_optimized_ttl()
        {
            let table = slf.getattr(pyo3::intern!(slf.py(), "OPTIMIZED_TTL"))?;
            if let Some(seconds) = table.cast::<PyDict>()?.get_item(sensitivity)? {
                return Ok(ttl(Some(&seconds))?.unwrap_or_default());
            }
        }
        Ok(Duration::from_nanos(this.ttl.load(Ordering::Relaxed)))
    }

    /// Counts a fault and hands it to the Python side to be logged; a bug of the caller is raised.
    #[cold]
    fn report(slf: &Bound<'_, Self>, operation: &str, fault: Fault) -> PyResult<()> {
        let reason = fault.reason(slf.py())?;
        slf.get().cache.stats().counters.errors.increment();
        slf.call_method1(pyo3::intern!(slf.py(), "_report"), (operation, reason))?;
        Ok(())
    }

    fn incoming(
        &self,
        fields: [&Bound<'_, PyString>; 3],
        decision: &Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
        ttl: Duration,
    ) -> Result<Incoming, Fault> {
        if !decision.is_instance_of::<PyDict>() && decision.cast::<PyMapping>().is_err() {
            return Err(Fault::WrongType(wrong_type("decision", "a dict", decision)));
        }
        let key = request(fields, context, KeyWriter::to_key)?;
        let value = Stored::from_python(decision)?;
        self.cache.weigh(&key, &value)?;
        Ok(Incoming { key, value, ttl })
    }
}

/// Stores one decision; false if it was refused. Too large was ruled out before.
async fn store(
    cache: &Cache<Stored>,
    incoming: Incoming,
    tags: &[&str],
    stamp: sark_cache_core::Stamp,
) -> bool {
    let stored = cache.insert(incoming.key, incoming.value, incoming.ttl, tags, stamp).await;
    debug_assert!(!matches!(stored, Err(Refused::TooLarge { .. })));
    stored.is_ok()
}

/// User, action and resource of a request.
#[inline]
fn fields<'a, 'py>(
    user_id: &'a Bound<'py, PyAny>,
    action: &'a Bound<'py, PyAny>,
    resource: &'a Bound<'py, PyAny>,
) -> PyResult<[&'a Bound<'py, PyString>; 3]> {
    Ok([string("user_id", user_id)?, string("action", action)?, string("resource", resource)?])
}

#[inline]
fn string<'a, 'py>(
    argument: &str,
    given: &'a Bound<'py, PyAny>,
) -> PyResult<&'a Bound<'py, PyString>> {
    given.cast().map_err(|_| wrong_type(argument, "a str", given))
}

fn optional<'a, 'py>(
    argument: &str,
    given: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<Option<&'a Bound<'py, PyString>>> {
    given
        .map(|given| given.cast().map_err(|_| wrong_type(argument, "a str or None", given)))
        .transpose()
}

/// The names in a `tags` argument. A bare string is refused: it would be taken for its letters.
fn tag_names(tags: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
    let Some(tags) = tags else { return Ok(Vec::new()) };
    let wrong = || wrong_type("tags", "a list, tuple or set of str", tags);
    if tags.is_instance_of::<PyString>() || tags.is_instance_of::<PyDict>() {
        return Err(wrong());
    }
    tags.try_iter().map_err(|_| wrong())?.map(|tag| tag?.extract().map_err(|_| wrong())).collect()
}

/// One row of a batch, its length checked.
struct Row<'py> {
    argument: &'static str,
    index: usize,
    items: SmallVec<[Bound<'py, PyAny>; 6]>,
}

impl<'py> Row<'py> {
    fn get(&self, at: usize) -> Option<&Bound<'py, PyAny>> {
        self.items.get(at).filter(|item| !item.is_none())
    }

    /// User, action and resource.
    fn fields(&self) -> PyResult<[&Bound<'py, PyString>; 3]> {
        let field = |at: usize, name| {
            self.items[at].cast::<PyString>().map_err(|_| {
                let argument = format!("{}[{}]: {name}", self.argument, self.index);
                wrong_type(&argument, "a str", &self.items[at])
            })
        };
        Ok([field(0, "user_id")?, field(1, "action")?, field(2, "resource")?])
    }
}

/// The rows of a batch: tuples or lists of `shape`, of which the first `lengths.start()` are needed.
fn rows<'py>(
    argument: &'static str,
    given: &Bound<'py, PyAny>,
    lengths: &RangeInclusive<usize>,
    shape: &str,
) -> PyResult<Vec<Row<'py>>> {
    let takes = format!("a list of tuples {shape}");
    let given = given.try_iter().map_err(|_| wrong_type(argument, &takes, given))?;
    given
        .enumerate()
        .map(|(index, row)| {
            let row = row?;
            let items: SmallVec<[_; 6]> = if let Ok(tuple) = row.cast::<PyTuple>() {
                tuple.iter().collect()
            } else if let Ok(list) = row.cast::<PyList>() {
                list.iter().collect()
            } else {
                return Err(wrong_type(
                    &format!("{argument}[{index}]"),
                    &format!("a tuple {shape}"),
                    &row,
                ));
            };
            if !lengths.contains(&items.len()) {
                return Err(PyTypeError::new_err(format!(
                    "{argument}[{index}] must be a tuple {shape}, not one of {} items",
                    items.len()
                )));
            }
            Ok(Row { argument, index, items })
        })
        .collect()
}

fn milliseconds(latencies: Latencies) -> f64 {
    latencies.mean() / 1e6
}
