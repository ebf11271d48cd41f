//! `PolicyStore`: what `RustPolicyCache` is built on.
//!
//! It never fails a request: what cannot be looked up is a miss, what cannot be stored is `False`,
//! and both are counted and reported to the Python side, which logs them. Wrong argument types are
//! bugs of the caller and raise.

pub mod batch;
pub mod store;

use crate::awaitable::{NOTHING, awaitable, ready};
use crate::convert::arguments::{
    self, Given, Tags, boolean, default_ttl, fields, optional, options, policy as read_policy,
    rows, string, ttl,
};
use crate::convert::key::{Request, request};
use crate::error::{Fault, InvalidationError, is_longer, text, text_within};
use crate::load::{Load, Loads, Owner, Wanted, evaluate};
use crate::policy::store::{CACHES, Stamp, Store};
use crate::value::Stored;
use pyo3::IntoPyObjectExt;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use sark_cache_core::clock::nanos;
use sark_cache_core::glob::{Glob, MAX_PATTERN_BYTES};
use sark_cache_core::latency::{Distribution, Latencies, Latency};
use sark_cache_core::limits::{MAX_FIELD_BYTES, MAX_POLICY_BYTES};
use sark_cache_core::{Cache, Entry, Key, KeyWriter, Scope, poll_once};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

type PyAwaitable<'py> = PyResult<Bound<'py, PyAny>>;

/// The compiled part of `RustPolicyCache`; use that one.
///
/// Made empty and then configured by `RustPolicyCache.__init__`, so that a subclass may have a
/// constructor of its own and pass on what it likes.
#[pyclass(frozen, subclass, module = "sark_cache._native")]
pub struct PolicyStore(OnceLock<Store>);

#[pymethods]
impl PolicyStore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    fn _configure(
        &self,
        max_size: &Bound<'_, PyAny>,
        ttl_seconds: &Bound<'_, PyAny>,
        enabled: &Bound<'_, PyAny>,
        use_optimized_ttl: &Bound<'_, PyAny>,
        max_bytes: &Bound<'_, PyAny>,
        eviction: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let options = options(Some(max_size), Some(max_bytes), Some(eviction))?;
        let ttl = default_ttl(Some(ttl_seconds))?;
        let cache = Arc::new(Cache::new(options));
        let store = Store {
            loads: Loads::new(&cache),
            cache,
            identity: CACHES.fetch_add(1, Ordering::Relaxed),
            enabled: AtomicBool::new(boolean("enabled", enabled)?),
            closed: AtomicBool::new(false),
            use_optimized_ttl: AtomicBool::new(boolean("use_optimized_ttl", use_optimized_ttl)?),
            ttl: AtomicU64::new(nanos(ttl)),
            max_size: options.max_size,
        };
        self.0.set(store).map_err(|_| PyRuntimeError::new_err("this cache was made already"))
    }

    /// The decision for a request, a new dict, or None. Decided when called; ready at once.
    #[pyo3(
        signature = (user_id, action, resource, context = None, sensitivity = None, *,
                     policy = Given::default()),
        text_signature = "($self, user_id, action, resource, context=None, sensitivity=None, *, \
                          policy='')"
    )]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        sensitivity: Option<&Bound<'py, PyAny>>,
        policy: Given<'_, 'py>,
    ) -> PyAwaitable<'py> {
        let fields = [user_id, action, resource];
        Self::look_up(slf, "get", fields, context, sensitivity, policy, |entry| {
            entry.value().to_python(slf.py())
        })
    }

    /// The decision for a request as an object that everybody shares, or None.
    #[pyo3(
        signature = (user_id, action, resource, context = None, sensitivity = None, *,
                     policy = Given::default()),
        text_signature = "($self, user_id, action, resource, context=None, sensitivity=None, *, \
                          policy='')"
    )]
    fn get_decision<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        sensitivity: Option<&Bound<'py, PyAny>>,
        policy: Given<'_, 'py>,
    ) -> PyAwaitable<'py> {
        let fields = [user_id, action, resource];
        Self::look_up(slf, "get_decision", fields, context, sensitivity, policy, |entry| {
            entry.value().decision(slf.py()).map(Bound::into_any)
        })
    }

    /// Stores a snapshot of a decision. True if it was stored.
    #[pyo3(
        signature = (user_id, action, resource, decision, context = None, ttl_seconds = None,
                     sensitivity = None, *, tags = None, stamp = None, policy = Given::default()),
        text_signature = "($self, user_id, action, resource, decision, context=None, \
                          ttl_seconds=None, sensitivity=None, *, tags=(), stamp=None, policy='')"
    )]
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
        policy: Given<'_, 'py>,
    ) -> PyAwaitable<'py> {
        let (py, store) = (slf.py(), slf.get().store()?);
        let stamp = store.stamp_or_now(stamp)?;
        let fields = fields(user_id, action, resource)?;
        let asked = Request { policy: read_policy(policy)?, fields, context };
        let ttl = Self::ttl_for(slf, ttl(ttl_seconds)?, optional("sensitivity", sensitivity)?)?;
        let tags = Tags::of_decision(tags)?;
        let numbers = store.cache.log().tags(&tags.names);
        let incoming = store.incoming(asked, decision, tags.all().map(|()| numbers), ttl);
        if !store.serves() {
            // What is a bug of the caller is one while the cache is off, too.
            return incoming
                .map_or_else(Fault::pass_wrong_type, |_| Ok(()))
                .and_then(|()| ready(py, false));
        }
        match incoming {
            Ok(incoming) => ready(py, store.insert(py, incoming, stamp)),
            Err(fault) => {
                Self::report(slf, "set", fault)?;
                ready(py, false)
            }
        }
    }

    /// The decision for a request: the cached one, or what `loader()` brings, which is then stored.
    #[pyo3(
        signature = (user_id, action, resource, loader, context = None, *, ttl_seconds = None,
                     sensitivity = None, tags = None, policy = Given::default()),
        text_signature = "($self, user_id, action, resource, loader, context=None, *, \
                          ttl_seconds=None, sensitivity=None, tags=(), policy='')"
    )]
    #[expect(clippy::too_many_arguments, reason = "the public interface")]
    fn get_or_load<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
        loader: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        ttl_seconds: Option<&Bound<'py, PyAny>>,
        sensitivity: Option<&Bound<'py, PyAny>>,
        tags: Option<&Bound<'py, PyAny>>,
        policy: Given<'_, 'py>,
    ) -> PyAwaitable<'py> {
        let (py, store) = (slf.py(), slf.get().store()?);
        let fields = fields(user_id, action, resource)?;
        let asked = Request { policy: read_policy(policy)?, fields, context };
        let loader = arguments::loader(loader)?;
        let sensitivity = optional("sensitivity", sensitivity)?;
        let given = ttl(ttl_seconds)?;
        let tags = Tags::of_decision(tags)?;
        if !store.serves() {
            return evaluate(slf, loader, None);
        }
        let stats = store.cache.stats();
        let started = stats.start();
        let served = match tags.all() {
            Ok(()) => {
                let found = |entry: &Entry<Stored>| entry.value().to_python(py);
                Self::serve(slf, asked, sensitivity, found, KeyWriter::to_key)
            }
            Err(fault) => {
                stats.counters.misses.increment();
                Err(fault)
            }
        };
        stats.stop(started);
        match served {
            Ok(Ok(decision)) => ready(py, decision),
            Ok(Err(key)) => {
                let ttl = given.unwrap_or_else(|| store.ttl());
                let longest = Self::longest(slf, sensitivity)?;
                let tags = store.cache.log().tags(&tags.names);
                Load::begin(py, Self::wanted(slf, key, ttl, longest, tags, loader)?)
            }
            Err(fault) => {
                Self::report(slf, "get_or_load", fault)?;
                stats.counters.loads.increment();
                evaluate(slf, loader, Some(slf.getattr(name!(py, "_count_load_error"))?))
            }
        }
    }

    fn _count_load_error(&self) -> PyResult<()> {
        self.store()?.cache.stats().counters.load_errors.increment();
        Ok(())
    }

    /// The load that refreshes an entry, led by whoever asked for it; None if the entry is gone or
    /// another load of it is under way.
    #[expect(clippy::too_many_arguments, reason = "a request in its parts")]
    fn _lead_refresh<'py>(
        slf: &Bound<'py, Self>,
        callback: &Bound<'py, PyAny>,
        user_id: &Bound<'py, PyString>,
        action: &Bound<'py, PyString>,
        resource: &Bound<'py, PyString>,
        context: Option<&Bound<'py, PyAny>>,
        sensitivity: &Bound<'py, PyString>,
        policy: &Bound<'py, PyString>,
    ) -> PyResult<Option<Load>> {
        let (py, store) = (slf.py(), slf.get().store()?);
        // What the callback is told is what the key says, whatever becomes of the caller's object.
        let context = context.map(|context| Stored::from_python(context)?.to_python(py));
        let context = context.transpose()?;
        let fields = [user_id, action, resource];
        let (policy, context) = (Some(policy.as_borrowed()), context.as_ref());
        let key = request(Request { policy, fields, context }, KeyWriter::to_key)?;
        let Some(entry) = poll_once(store.cache.find(key.as_bytes())).flatten() else {
            return Ok(None);
        };
        let evaluate = py
            .import(name!(py, "functools"))?
            .call_method1(name!(py, "partial"), (callback, user_id, action, resource, context))?;
        let longest = Self::longest(slf, Some(sensitivity))?;
        // It lives as long as what it replaces, and what could revoke that can revoke it.
        let (ttl, tags) = (entry.ttl(), entry.tags().clone());
        Load::refresh(py, Self::wanted(slf, key, ttl, longest, tags, &evaluate)?)
    }

    /// The stamp of now: take it before evaluating a decision that `set` is to store.
    fn stamp(&self) -> PyResult<Stamp> {
        let store = self.store()?;
        Ok(Stamp { cache: store.identity, at: store.cache.stamp() })
    }

    /// Revokes and removes the decision for a request, under one policy or under all. True if there
    /// was one.
    #[pyo3(signature = (user_id, action, resource, context = None, *, policy = None))]
    fn delete<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyAwaitable<'py> {
        let (py, store) = (slf.py(), slf.get().store()?);
        let fields = fields(user_id, action, resource)?;
        let policy = optional("policy", policy)?.map(Bound::as_borrowed);
        let key = request(Request { policy, fields, context }, KeyWriter::to_key);
        match key {
            Ok(key) if policy.is_some() => {
                let removed = store.cache.remove(key.as_bytes());
                awaitable(py, async move { Ok(removed.await) })
            }
            Ok(key) => {
                let removed = store.cache.remove_request(key.as_bytes());
                awaitable(py, async move { Ok(removed.await) })
            }
            Err(Fault::Raised(error)) if error.is_instance_of::<PyException>(py) => {
                // What its key is cannot be told, so nobody can say that it is gone.
                let unconfirmed = InvalidationError::new_err(
                    "the context's own code raised, so the decision to delete is unknown",
                );
                unconfirmed.set_cause(py, Some(error));
                Err(unconfirmed)
            }
            // What has no key was never stored.
            Err(fault) => {
                Self::report(slf, "delete", fault)?;
                ready(py, false)
            }
        }
    }

    /// The decisions for many requests, in their order.
    #[pyo3(
        signature = (requests, *, policy = Given::default()),
        text_signature = "($self, requests, *, policy='')"
    )]
    fn get_batch<'py>(
        slf: &Bound<'py, Self>,
        requests: &Bound<'py, PyAny>,
        policy: Given<'_, 'py>,
    ) -> PyAwaitable<'py> {
        ready(slf.py(), batch::get(slf, requests, read_policy(policy)?)?)
    }

    /// Stores many decisions at the call, 2–3 µs each; returns how many were stored.
    #[pyo3(
        signature = (entries, *, tags = None, stamp = None, policy = Given::default()),
        text_signature = "($self, entries, *, tags=(), stamp=None, policy='')"
    )]
    fn set_batch<'py>(
        slf: &Bound<'py, Self>,
        entries: &Bound<'py, PyAny>,
        tags: Option<&Bound<'py, PyAny>>,
        stamp: Option<&Bound<'py, PyAny>>,
        policy: Given<'_, 'py>,
    ) -> PyAwaitable<'py> {
        let (py, store) = (slf.py(), slf.get().store()?);
        let stamp = store.stamp_or_now(stamp)?;
        let policy = read_policy(policy)?;
        let tags = Tags::of_decision(tags)?;
        let numbers = store.cache.log().tags(&tags.names);
        let serves = store.serves();
        if serves {
            store.cache.stats().counters.batch_operations.increment();
        }
        let mut stored = 0_u64;
        let shape = "(user_id, action, resource, decision, context, ttl_seconds)";
        rows("entries", entries, &(4..=6), shape, |row| {
            let ttl = Self::ttl_for(slf, ttl(row.get(5))?, None)?;
            let asked = Request { policy, fields: row.fields()?, context: row.get(4) };
            let tags = tags.all().map(|()| numbers.clone());
            let incoming = store.incoming(asked, &row.items[3], tags, ttl);
            match incoming {
                Ok(incoming) if serves => {
                    stored += u64::from(store.insert(py, incoming, stamp));
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(fault) if serves => Self::report(slf, "set_batch", fault),
                Err(fault) => fault.pass_wrong_type(),
            }
        })?;
        ready(py, stored)
    }

    /// Revokes every decision that matches all given fields; returns how many entries died.
    #[pyo3(
        signature = (user_id = None, action = None, resource = None, *, tags = Given::default(),
                     policy = None),
        text_signature = "($self, user_id=None, action=None, resource=None, *, tags=(), \
                          policy=None)"
    )]
    fn invalidate<'py>(
        slf: &Bound<'py, Self>,
        user_id: Option<&Bound<'py, PyAny>>,
        action: Option<&Bound<'py, PyAny>>,
        resource: Option<&Bound<'py, PyAny>>,
        tags: Given<'_, 'py>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyAwaitable<'py> {
        let (py, store) = (slf.py(), slf.get().store()?);
        let named = [
            optional("user_id", user_id)?,
            optional("action", action)?,
            optional("resource", resource)?,
            optional("policy", policy)?,
        ];
        let tags = Tags::to_revoke(tags)?;
        let mut parts = [None; 4];
        let limits = [MAX_FIELD_BYTES, MAX_FIELD_BYTES, MAX_FIELD_BYTES, MAX_POLICY_BYTES];
        for (at, named) in named.into_iter().enumerate() {
            let part = ["user_id", "action", "resource", "policy"][at];
            match named.map(|named| text_within(part, named, limits[at])).transpose() {
                Ok(name) => parts[at] = name,
                // No decision was ever stored under it, so there is none to revoke.
                Err(fault) => {
                    Self::report(slf, "invalidate", fault)?;
                    return ready(py, 0);
                }
            }
        }
        if let Some(tags) = &tags
            && let Err(fault) = tags.all()
        {
            Self::report(slf, "invalidate", fault)?;
            if tags.names.is_empty() {
                return ready(py, 0);
            }
        }
        let tags = tags.unwrap_or_default();
        let tags: Vec<&str> = tags.names.iter().map(String::as_str).collect();
        let [user_id, action, resource, policy] = parts;
        let scope = Scope::under(policy, [user_id, action, resource], &tags);
        if scope == Scope::Everything {
            Self::log(slf, name!(py, "_revokes_everything"), ())?;
        }
        let died = store.cache.invalidate(scope);
        awaitable(py, async move { Ok(died.await) })
    }

    /// Revokes every decision whose text key matches a Redis glob; returns how many entries died.
    fn invalidate_pattern<'py>(
        slf: &Bound<'py, Self>,
        pattern: &Bound<'py, PyAny>,
    ) -> PyAwaitable<'py> {
        let pattern = string("pattern", pattern)?;
        let too_long =
            || PyValueError::new_err(format!("pattern must be at most {MAX_PATTERN_BYTES} bytes"));
        if is_longer(pattern, MAX_PATTERN_BYTES) {
            return Err(too_long());
        }
        let glob = Glob::new(text(pattern)?).ok_or_else(too_long)?;
        let died = slf.get().store()?.cache.invalidate(Scope::Glob(glob));
        awaitable(slf.py(), async move { Ok(died.await) })
    }

    /// Revokes and removes all decisions. Always True.
    fn clear<'py>(slf: &Bound<'py, Self>) -> PyAwaitable<'py> {
        let died = slf.get().store()?.cache.invalidate(Scope::Everything);
        awaitable(slf.py(), async move {
            died.await;
            Ok(true)
        })
    }

    /// The number of live entries. Visits them all, off the event loop if they are many.
    fn size<'py>(slf: &Bound<'py, Self>) -> PyAwaitable<'py> {
        let cache = Arc::clone(&slf.get().store()?.cache);
        awaitable(slf.py(), async move { Ok(cache.live().await) })
    }

    /// Removes the expired entries; returns how many there were. Visits all.
    fn cleanup_expired<'py>(slf: &Bound<'py, Self>) -> PyAwaitable<'py> {
        let cache = Arc::clone(&slf.get().store()?.cache);
        awaitable(slf.py(), async move { Ok(cache.cleanup_expired().await) })
    }

    /// Stops serving and drops all entries.
    fn close<'py>(slf: &Bound<'py, Self>) -> PyAwaitable<'py> {
        let store = slf.get().store()?;
        store.closed.store(true, Ordering::Release);
        let died = store.cache.invalidate(Scope::Everything);
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
        self.store()?.cache.stats().evaluations.record(duration);
        Ok(())
    }

    /// Sets every counter and histogram to zero.
    fn reset_metrics(&self) -> PyResult<()> {
        self.store()?.cache.reset_stats();
        Ok(())
    }

    /// The most entries.
    #[getter]
    fn max_size(&self) -> PyResult<u64> {
        Ok(self.store()?.max_size)
    }

    /// Whether the cache serves and stores.
    #[getter]
    fn enabled(&self) -> PyResult<bool> {
        Ok(self.store()?.enabled.load(Ordering::Relaxed))
    }

    #[setter]
    fn set_enabled(&self, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        self.store()?.enabled.store(boolean("enabled", enabled)?, Ordering::Relaxed);
        Ok(())
    }

    /// How long an entry lives unless told otherwise, in seconds.
    #[getter]
    #[expect(clippy::cast_precision_loss, reason = "a time to live does not need 53 bits")]
    fn ttl_seconds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        const SECOND: u64 = 1_000_000_000;
        match self.store()?.ttl.load(Ordering::Relaxed) {
            whole if whole.is_multiple_of(SECOND) => (whole / SECOND).into_bound_py_any(py),
            nanos => (nanos as f64 / SECOND as f64).into_bound_py_any(py),
        }
    }

    #[setter]
    fn set_ttl_seconds(&self, ttl_seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        self.store()?.ttl.store(nanos(default_ttl(Some(ttl_seconds))?), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a given sensitivity shortens how long an entry lives.
    #[getter]
    fn use_optimized_ttl(&self) -> PyResult<bool> {
        Ok(self.store()?.use_optimized_ttl.load(Ordering::Relaxed))
    }

    #[setter]
    fn set_use_optimized_ttl(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = boolean("use_optimized_ttl", value)?;
        self.store()?.use_optimized_ttl.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> PyResult<bool> {
        Ok(self.store()?.closed.load(Ordering::Acquire))
    }

    /// How many requests took less than each of the bounds, which are nanoseconds and rise; how long
    /// they all took, in seconds; and how many there were.
    #[expect(clippy::needless_pass_by_value, reason = "made from a list")]
    fn _request_distribution(&self, bounds: Vec<u64>) -> PyResult<(Vec<u64>, f64, u64)> {
        Ok(distribution(&self.store()?.cache.stats().requests, &bounds))
    }

    /// The same of evaluations, as `record_opa_latency` was told.
    #[expect(clippy::needless_pass_by_value, reason = "made from a list")]
    fn _evaluation_distribution(&self, bounds: Vec<u64>) -> PyResult<(Vec<u64>, f64, u64)> {
        Ok(distribution(&self.store()?.cache.stats().evaluations, &bounds))
    }

    /// Every number that the metrics are made of.
    fn _snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let store = self.store()?;
        let snapshot = store.cache.snapshot();
        let numbers = PyDict::new(py);
        for (name, count) in snapshot.counts.iter() {
            numbers.set_item(name, count)?;
        }
        let Latencies { p50, p95, p99, .. } = snapshot.requests;
        numbers.set_item("size", store.cache.held())?;
        numbers.set_item("max_size", store.max_size)?;
        numbers.set_item("avg_cache_latency_ms", snapshot.requests.mean() / 1e6)?;
        numbers.set_item("avg_opa_latency_ms", snapshot.evaluations.mean() / 1e6)?;
        for (name, nanos) in [("p50", p50), ("p95", p95), ("p99", p99)] {
            #[expect(clippy::cast_precision_loss, reason = "at most 2^36")]
            numbers.set_item(format!("cache_latency_{name}_us"), nanos as f64 / 1e3)?;
        }
        Ok(numbers)
    }
}

impl PolicyStore {
    #[inline]
    pub fn store(&self) -> PyResult<&Store> {
        self.0.get().ok_or_else(|| {
            PyRuntimeError::new_err("RustPolicyCache.__init__ was not called by the subclass's")
        })
    }

    /// What `found` makes of the entry for a request, or None; an awaitable that is ready.
    #[inline]
    fn look_up<'py>(
        slf: &Bound<'py, Self>,
        operation: &str,
        [user_id, action, resource]: [&Bound<'py, PyAny>; 3],
        context: Option<&Bound<'py, PyAny>>,
        sensitivity: Option<&Bound<'py, PyAny>>,
        policy: Given<'_, 'py>,
        found: impl FnOnce(&Entry<Stored>) -> PyAwaitable<'py>,
    ) -> PyAwaitable<'py> {
        let (py, store) = (slf.py(), slf.get().store()?);
        let fields = fields(user_id, action, resource)?;
        let asked = Request { policy: read_policy(policy)?, fields, context };
        let sensitivity = optional("sensitivity", sensitivity)?;
        if !store.serves() {
            return ready(py, py.None());
        }
        let started = store.cache.stats().start();
        let served = Self::serve(slf, asked, sensitivity, found, |_| ());
        store.cache.stats().stop(started);
        match served {
            Ok(decision) => ready(py, decision.ok()),
            Err(fault) => {
                Self::report(slf, operation, fault)?;
                ready(py, py.None())
            }
        }
    }

    /// What `found` makes of the entry for a request, which is refreshed ahead if it is time to; if
    /// there is none, what `missed` makes of its key. Counts a hit, a stale hit or a miss.
    #[inline]
    fn serve<'py, K>(
        slf: &Bound<'py, Self>,
        asked: Request<'_, 'py>,
        sensitivity: Option<&Bound<'py, PyString>>,
        found: impl FnOnce(&Entry<Stored>) -> PyAwaitable<'py>,
        missed: impl FnOnce(&KeyWriter) -> K,
    ) -> Result<Result<Bound<'py, PyAny>, K>, Fault> {
        let store = slf.get().store()?;
        let counters = &store.cache.stats().counters;
        let entry = match store.look_up(asked, missed) {
            Ok(Ok(entry)) => entry,
            Ok(Err(missed)) => {
                counters.misses.increment();
                return Ok(Err(missed));
            }
            // A wrong type is no request at all.
            Err(fault @ Fault::WrongType(_)) => return Err(fault),
            Err(fault) => {
                counters.misses.increment();
                return Err(fault);
            }
        };
        let stale = match sensitivity {
            Some(sensitivity) => Self::refresh_ahead(slf, &entry, asked, sensitivity)?,
            None => false,
        };
        if stale { &counters.stale_hits } else { &counters.hits }.increment();
        Ok(Ok(found(&entry)?))
    }

    /// Sees to a refresh if the entry is one to be refreshed and near its end; false if it is not.
    fn refresh_ahead(
        slf: &Bound<'_, Self>,
        entry: &Entry<Stored>,
        asked: Request<'_, '_>,
        sensitivity: &Bound<'_, PyString>,
    ) -> PyResult<bool> {
        match sensitivity.to_str() {
            Ok("critical" | "confidential") => {}
            Ok("internal" | "public" | "default") => return Ok(false),
            _ => return Self::longest(slf, Some(sensitivity)).map(|_| false),
        }
        let py = slf.py();
        let refresh = || -> Result<bool, Fault> {
            let part = slf.getattr(name!(py, "STALE_THRESHOLD_RATIO"))?.extract()?;
            let store = slf.get().store()?;
            if !store.cache.ends_soon(entry, part) {
                return Ok(false);
            }
            let refreshing = request(asked, |key| store.loads.refreshes(key.as_bytes()))?;
            if store.loads.holds(py, refreshing)? {
                return Ok(true);
            }
            let Request { policy, fields: [user_id, action, resource], context } = asked;
            let policy = policy.map_or_else(|| PyString::new(py, ""), Borrowed::to_owned);
            let wanted = (user_id, action, resource, context, sensitivity, policy);
            Ok(slf.call_method1(name!(py, "_refresh_ahead"), wanted)?.is_truthy()?)
        };
        refresh().or_else(|fault| {
            // The hit is a hit all the same.
            Self::report(slf, "refresh", fault)?;
            Ok(false)
        })
    }

    fn wanted(
        slf: &Bound<'_, Self>,
        key: Key,
        ttl: Duration,
        longest: Duration,
        tags: sark_cache_core::Tags,
        loader: &Bound<'_, PyAny>,
    ) -> PyResult<Wanted> {
        let owner = Owner::Policy(slf.clone().unbind());
        let Store { cache, loads, .. } = slf.get().store()?;
        let (cache, loads) = (Arc::clone(cache), Arc::clone(loads));
        let loader = loader.clone().unbind();
        Ok(Wanted { owner, cache, loads, key, ttl, longest, tags, loader })
    }

    /// How long an entry lives: as given, else as the cache says, and no longer than its sensitivity
    /// lets it.
    fn ttl_for(
        slf: &Bound<'_, Self>,
        given: Option<Duration>,
        sensitivity: Option<&Bound<'_, PyString>>,
    ) -> PyResult<Duration> {
        let store = slf.get().store()?;
        Ok(given.unwrap_or_else(|| store.ttl()).min(Self::longest(slf, sensitivity)?))
    }

    /// The longest that a sensitivity lets an entry live. One that has no time is warned of.
    fn longest(
        slf: &Bound<'_, Self>,
        sensitivity: Option<&Bound<'_, PyString>>,
    ) -> PyResult<Duration> {
        let (py, store) = (slf.py(), slf.get().store()?);
        let Some(sensitivity) =
            sensitivity.filter(|_| store.use_optimized_ttl.load(Ordering::Relaxed))
        else {
            return Ok(Duration::MAX);
        };
        let table = slf.getattr(name!(py, "OPTIMIZED_TTL"))?;
        let seconds = table.call_method1(name!(py, "get"), (sensitivity,))?;
        if let Some(longest) = ttl(Some(&seconds))? {
            return Ok(longest);
        }
        Self::log(slf, name!(py, "_unknown_sensitivity"), (sensitivity,))?;
        Ok(Duration::MAX)
    }

    /// Counts a fault and hands it to the Python side to be logged; a bug of the caller is raised.
    #[cold]
    pub fn report(slf: &Bound<'_, Self>, operation: &str, fault: Fault) -> PyResult<()> {
        let py = slf.py();
        let reason = fault.reason(py)?;
        slf.get().store()?.cache.stats().counters.errors.increment();
        Self::log(slf, name!(py, "_report"), (operation, reason))
    }

    /// Has a method of the Python side log something.
    fn log<'py>(
        slf: &Bound<'py, Self>,
        method: &Bound<'py, PyString>,
        about: impl PyCallArgs<'py>,
    ) -> PyResult<()> {
        let py = slf.py();
        match slf.call_method1(method, about) {
            // A log that cannot be written to is no reason to fail a request.
            Err(error) if error.is_instance_of::<PyException>(py) => {
                error.write_unraisable(py, Some(slf));
                Ok(())
            }
            logged => logged.map(drop),
        }
    }
}

fn distribution(latency: &Latency, bounds: &[u64]) -> (Vec<u64>, f64, u64) {
    let Distribution { below, count, sum } = latency.distribution(bounds);
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days")]
    let seconds = sum as f64 / 1e9;
    (below, seconds, count)
}
