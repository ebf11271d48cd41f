//! The compiled base of `RustPolicyCache`: the Python class and its signatures.
//!
//! A policy cache does not fail a request. A request that cannot be looked up is a miss. A decision
//! that cannot be stored is left out. Both are counted in `errors`, and the Python class logs them.
//! An argument of a wrong type is an error of the caller and raises.

mod batch;
mod invalidate;
mod lapse;
mod load;
mod lookup;
mod metrics;
mod report;
mod set;
pub mod store;
mod ttl;

use crate::awaitable::{awaitable, ready};
use crate::convert::arguments::{
    self, Given, Request, RequestArguments, boolean, default_ttl, options,
};
use crate::convert::tags::Tags;
use crate::load::Load;
use crate::policy::set::StorageArguments;
use crate::policy::store::{Instance, Stamp, Store};
use crate::policy::ttl::sensitivities;
use crate::runtime::fork_guard::fork_excluded;
use crate::runtime::lease::Lease;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use sark_cache_core::Scope;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// An awaitable, as all asynchronous methods return it.
type PyAwaitable<'py> = PyResult<Bound<'py, PyAny>>;

/// The compiled base of `RustPolicyCache`. Use that class instead.
///
/// It is created empty and configured by `RustPolicyCache.__init__`, so that a subclass may define a
/// constructor of its own.
#[pyclass(frozen, subclass, module = "sark_cache._native")]
pub struct PolicyStore(OnceLock<Store>);

impl PolicyStore {
    fn note_foreign(&self, py: Python<'_>, scope: &Scope) -> PyResult<()> {
        let cache = &self.store()?.cache;
        // Guarded: no child inherits a log that another thread is writing to.
        fork_excluded(py, || cache.note_foreign(scope));
        Ok(())
    }

    #[inline]
    fn store(&self) -> PyResult<&Store> {
        self.0.get().ok_or_else(|| {
            PyRuntimeError::new_err(
                "RustPolicyCache.__init__ was not called: call super().__init__() in the \
                 __init__ of the subclass",
            )
        })
    }

    #[inline]
    fn instance<'a, 'py>(slf: &'a Bound<'py, Self>) -> PyResult<Instance<'a, 'py>> {
        Ok(Instance { object: slf.as_any(), store: slf.get().store()? })
    }
}

#[pymethods]
impl PolicyStore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    #[expect(clippy::too_many_arguments, reason = "the settings of a cache")]
    fn _configure(
        slf: &Bound<'_, Self>,
        max_size: &Bound<'_, PyAny>,
        ttl_seconds: &Bound<'_, PyAny>,
        enabled: &Bound<'_, PyAny>,
        use_optimized_ttl: &Bound<'_, PyAny>,
        max_bytes: &Bound<'_, PyAny>,
        eviction: &Bound<'_, PyAny>,
        lease: Option<&Bound<'_, Lease>>,
    ) -> PyResult<()> {
        let mut options = options(Some(max_size), Some(max_bytes), Some(eviction))?;
        if let Some(lease) = lease {
            options.lease = lease.get().shared();
        }
        let ttl = default_ttl(Some(ttl_seconds))?;
        let enabled = boolean("enabled", enabled)?;
        let use_optimized_ttl = boolean("use_optimized_ttl", use_optimized_ttl)?;
        let sensitivities = sensitivities(slf)?;
        let store = Store::new(options, ttl, enabled, use_optimized_ttl, sensitivities);
        slf.get()
            .0
            .set(store)
            .map_err(|_| PyRuntimeError::new_err("this cache was made already: create another one"))
    }

    /// Returns the cached decision for a request as a new dict, or None.
    ///
    /// The lookup happens at the call, and the awaitable is ready at once.
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
        let request = RequestArguments { fields, context, policy };
        lookup::get(Self::instance(slf)?, request, sensitivity)
    }

    /// Returns the cached decision for a request as an immutable `Decision`, or None. All callers
    /// get the same object.
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
        let request = RequestArguments { fields, context, policy };
        lookup::get_decision(Self::instance(slf)?, request, sensitivity)
    }

    /// Stores a snapshot of a decision. Returns True if it was stored.
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
        let fields = [user_id, action, resource];
        let request = RequestArguments { fields, context, policy };
        let storage = StorageArguments { ttl_seconds, sensitivity, tags };
        set::set(Self::instance(slf)?, request, decision, storage, stamp)
    }

    /// Returns the cached decision. On a miss, runs the loader and stores its decision.
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
        let fields = [user_id, action, resource];
        let request = RequestArguments { fields, context, policy };
        let storage = StorageArguments { ttl_seconds, sensitivity, tags };
        load::get_or_load(Self::instance(slf)?, request, loader, storage)
    }

    /// Returns True or False for each resource with a cached decision, and None for the others.
    fn _allowed<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resources: &Bound<'py, PyList>,
        context: Option<&Bound<'py, PyAny>>,
        policy: Given<'_, 'py>,
    ) -> PyResult<Bound<'py, PyList>> {
        let user = [arguments::string("user_id", user_id)?, arguments::string("action", action)?];
        let policy = arguments::policy(policy)?;
        batch::allowed(Self::instance(slf)?, user, resources, context, policy)
    }

    /// Begins the loads of the requests of a batch that missed.
    fn _begin_loads<'py>(
        slf: &Bound<'py, Self>,
        requests: &Bound<'py, PyList>,
        loaders: &Bound<'py, PyList>,
        ttl_seconds: Option<&Bound<'py, PyAny>>,
        sensitivity: Option<&Bound<'py, PyAny>>,
        tags: Option<&Bound<'py, PyAny>>,
        policy: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyList>> {
        let storage = StorageArguments { ttl_seconds, sensitivity, tags };
        let policy = Some(policy.as_borrowed());
        load::begin_many(Self::instance(slf)?, requests, loaders, storage, policy)
    }

    fn _count_load_error(&self) -> PyResult<()> {
        self.store()?.cache.stats().counters.load_errors.increment();
        Ok(())
    }

    /// Starts a refresh of an entry. The request that hit the entry leads it. Returns None if the
    /// entry was removed or a load of it is running.
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
        let fields = [user_id, action, resource];
        let request = Request { policy: Some(policy.as_borrowed()), fields, context };
        load::lead_refresh(Self::instance(slf)?, callback, request, sensitivity)
    }

    /// Returns a stamp. Take it before the evaluation of a decision, and pass it to `set`.
    fn stamp(&self) -> PyResult<Stamp> {
        self.store().map(Store::stamp)
    }

    /// Revokes the decision for a request, under one policy or under all. Returns True if one was
    /// cached.
    #[pyo3(signature = (user_id, action, resource, context = None, *, policy = None))]
    fn delete<'py>(
        slf: &Bound<'py, Self>,
        user_id: &Bound<'py, PyAny>,
        action: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyAwaitable<'py> {
        let fields = [user_id, action, resource];
        invalidate::delete(Self::instance(slf)?, fields, context, policy)
    }

    /// Returns the cached decisions for many requests, in their order. None: a miss.
    #[pyo3(
        signature = (requests, *, policy = Given::default()),
        text_signature = "($self, requests, *, policy='')"
    )]
    fn get_batch<'py>(
        slf: &Bound<'py, Self>,
        requests: &Bound<'py, PyAny>,
        policy: Given<'_, 'py>,
    ) -> PyAwaitable<'py> {
        let policy = arguments::policy(policy)?;
        batch::get(Self::instance(slf)?, requests, policy)
    }

    /// Stores many decisions at the call. Each takes 2–3 µs. Returns the number of decisions
    /// stored.
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
        let cache = Self::instance(slf)?;
        let stamp = cache.store.stamp_or_now(stamp)?;
        let policy = arguments::policy(policy)?;
        let tags = Tags::of_decision(tags)?;
        ready(slf.py(), batch::set(cache, entries, &tags, stamp, policy)?)
    }

    /// Revokes all decisions that match every given field. Without fields, all decisions. Returns
    /// the number of entries removed.
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
        invalidate::invalidate(Self::instance(slf)?, [user_id, action, resource, policy], tags)
    }

    /// Revokes all decisions whose text key matches a Redis glob. Returns the number of entries
    /// removed.
    fn invalidate_pattern<'py>(
        slf: &Bound<'py, Self>,
        pattern: &Bound<'py, PyAny>,
    ) -> PyAwaitable<'py> {
        invalidate::invalidate_pattern(Self::instance(slf)?, pattern)
    }

    /// Revokes all decisions. Returns True.
    fn clear<'py>(&self, py: Python<'py>) -> PyAwaitable<'py> {
        invalidate::clear(py, self.store()?)
    }

    /// Returns the number of entries that have not expired. Visits every entry. If there are many,
    /// another thread visits them, not the event loop's.
    fn size<'py>(&self, py: Python<'py>) -> PyAwaitable<'py> {
        let cache = Arc::clone(&self.store()?.cache);
        awaitable(py, async move { Ok(cache.count_live().await) })
    }

    /// Removes expired entries. Returns the number of entries removed. Visits every entry.
    fn cleanup_expired<'py>(&self, py: Python<'py>) -> PyAwaitable<'py> {
        let cache = Arc::clone(&self.store()?.cache);
        awaitable(py, async move { Ok(cache.cleanup_expired().await) })
    }

    /// Stops serving and removes all entries.
    fn close<'py>(&self, py: Python<'py>) -> PyAwaitable<'py> {
        invalidate::close(py, self.store()?)
    }

    /// Revokes the decisions in a scope, because another process did. Removes no entry.
    ///
    /// A scope of which no part is given covers all decisions.
    #[expect(clippy::needless_pass_by_value, reason = "made from a list")]
    fn _note_foreign(
        &self,
        py: Python<'_>,
        user_id: Option<&str>,
        action: Option<&str>,
        resource: Option<&str>,
        policy: Option<&str>,
        tags: Vec<String>,
    ) -> PyResult<()> {
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let scope = Scope::under(policy, [user_id, action, resource], &tags);
        self.note_foreign(py, &scope)
    }

    /// Revokes the decision under a key, because another process did. `text` is the key's text; its
    /// context is ignored, so the decisions for all contexts are revoked.
    fn _note_foreign_key(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        self.note_foreign(py, &Scope::of_key_text(text))
    }

    /// Revokes the decisions that match a pattern, because another process did.
    fn _note_foreign_pattern(&self, py: Python<'_>, pattern: &str) -> PyResult<()> {
        self.note_foreign(py, &Scope::of_pattern(pattern))
    }

    /// Revokes all decisions, because revocations of other processes may be missing. Counts a flush.
    fn _flush(&self, py: Python<'_>) -> PyResult<()> {
        let cache = &self.store()?.cache;
        fork_excluded(py, || cache.flush());
        Ok(())
    }

    /// Revokes all decisions from before this process knew a position of the log. Counts nothing.
    fn _begin_to_follow(&self, py: Python<'_>) -> PyResult<()> {
        let cache = &self.store()?.cache;
        fork_excluded(py, || cache.begin_to_follow());
        Ok(())
    }

    /// Records the duration of one evaluation, in milliseconds.
    fn record_opa_latency(&self, latency_ms: f64) -> PyResult<()> {
        metrics::record_evaluation(self.store()?, latency_ms)
    }

    /// Sets every counter and histogram to zero.
    fn reset_metrics(&self) -> PyResult<()> {
        self.store()?.cache.reset_stats();
        Ok(())
    }

    /// The maximum number of entries.
    #[getter]
    fn max_size(&self) -> PyResult<u64> {
        Ok(self.store()?.max_size)
    }

    /// True if the cache serves and stores decisions. It can be set.
    #[getter]
    fn enabled(&self) -> PyResult<bool> {
        Ok(self.store()?.switch.enabled.load(Ordering::Relaxed))
    }

    #[setter]
    fn set_enabled(&self, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        self.store()?.switch.enabled.store(boolean("enabled", enabled)?, Ordering::Relaxed);
        Ok(())
    }

    /// The default time to live of an entry, in seconds. It can be set.
    #[getter]
    fn ttl_seconds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        ttl::seconds(py, self.store()?.ttl())
    }

    #[setter]
    fn set_ttl_seconds(&self, ttl_seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        self.store()?.set_ttl(default_ttl(Some(ttl_seconds))?);
        Ok(())
    }

    /// True if a sensitivity limits the time to live of an entry. It can be set.
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

    /// True after `close` was called.
    #[getter]
    fn closed(&self) -> PyResult<bool> {
        Ok(self.store()?.switch.closed.load(Ordering::Acquire))
    }

    /// Returns the number of request durations below each of `bounds`, which are in nanoseconds;
    /// the sum of all durations in seconds; and the number of all durations.
    #[expect(clippy::needless_pass_by_value, reason = "made from a list")]
    fn _request_distribution(&self, bounds: Vec<u64>) -> PyResult<(Vec<u64>, f64, u64)> {
        Ok(metrics::distribution(&self.store()?.cache.stats().requests, &bounds))
    }

    /// Returns the same for the durations that `record_opa_latency` recorded.
    #[expect(clippy::needless_pass_by_value, reason = "made from a list")]
    fn _evaluation_distribution(&self, bounds: Vec<u64>) -> PyResult<(Vec<u64>, f64, u64)> {
        Ok(metrics::distribution(&self.store()?.cache.stats().evaluations, &bounds))
    }

    /// Returns all counters, sizes and latencies by the names of the fields of `CacheMetrics`.
    fn _snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics::snapshot(py, self.store()?)
    }
}
