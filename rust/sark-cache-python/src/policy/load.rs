//! `get_or_load`, the misses of `get_or_load_many`, and the loads that refresh an entry in the
//! background.

use crate::awaitable::ready;
use crate::convert::arguments::{self, Policy, Request, RequestArguments, optional, ttl};
use crate::convert::key::{self, Keys};
use crate::convert::rows::rows;
use crate::convert::tags::Tags;
use crate::load::lifetime::Lifetime;
use crate::load::owner::{OnFault, Owner};
use crate::load::task::Task;
use crate::load::{Load, LoadRequest, evaluate};
use crate::policy::batch::SHAPE;
use crate::policy::lapse::{self, Reader, has_lapsed};
use crate::policy::lookup::serve;
use crate::policy::report::report;
use crate::policy::set::StorageArguments;
use crate::policy::store::{Instance, Store};
use crate::policy::ttl::lifetime;
use crate::value::Stored;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use sark_cache_core::{Entry, Key, KeyWriter};
use std::sync::Arc;

/// Returns the decision for a request: the cached one, or else the result of `loader()`.
#[inline]
pub fn get_or_load<'py>(
    cache: Instance<'_, 'py>,
    request: RequestArguments<'_, 'py>,
    loader: &Bound<'py, PyAny>,
    StorageArguments { ttl_seconds, sensitivity, tags }: StorageArguments<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, store) = (cache.py(), cache.store);
    let request = request.read()?;
    let loader = arguments::loader(loader)?;
    let sensitivity = optional("sensitivity", sensitivity)?;
    let given = ttl(ttl_seconds)?;
    let tags = Tags::of_decision(tags)?;
    if !store.serves() {
        // A decision without a key was never stored.
        let superseding = match key::request(request, KeyWriter::to_key) {
            Ok(key) => Some(store.superseding(py, key)?),
            Err(fault) => fault.reason(py).map(|_| None)?,
        };
        return evaluate(cache.object, loader, None, superseding);
    }
    let stats = store.cache.stats();
    let started = stats.start();
    let served = match tags.all() {
        Ok(()) => {
            let found = |entry: &Entry<Stored>| entry.value().to_python(py);
            serve(cache, request, sensitivity, found, KeyWriter::to_key)
        }
        Err(fault) => {
            store.cache.count_miss();
            Err(fault)
        }
    };
    stats.stop(started);
    match served {
        Ok(Ok(decision)) => ready(py, decision),
        Ok(Err(key)) => {
            let lifetime = lifetime(cache, given, sensitivity)?;
            let tags = store.cache.log().tags(&tags.names);
            let lapsed = has_lapsed(store).then(|| key.clone());
            let load = Load::decision(py, load_request(cache, key, lifetime, tags, loader))?;
            let read: Reader = |py, entry| entry.value().to_python(py);
            if let Some(key) = lapsed
                && let Some(waiting) = lapse::wait(cache, key, read, Some(&load))?
            {
                return Ok(waiting);
            }
            store.cache.count_miss();
            Ok(load)
        }
        Err(fault) => {
            cache.report("get_or_load", fault)?;
            stats.counters.loads.increment();
            let failed = cache.object.getattr(interned!(py, "_count_load_error"))?;
            evaluate(cache.object, loader, Some(failed), None)
        }
    }
}

/// Begins the requests of a batch that missed; returns a [`Load`] for each, and `None` for one whose
/// decision cannot be stored.
///
/// `loaders` has a loader for each request. It is used if the batch does not lead the load.
pub fn begin_many<'py>(
    cache: Instance<'_, 'py>,
    requests: &Bound<'py, PyList>,
    loaders: &Bound<'py, PyList>,
    StorageArguments { ttl_seconds, sensitivity, tags }: StorageArguments<'_, 'py>,
    policy: Policy<'_, 'py>,
) -> PyResult<Bound<'py, PyList>> {
    let (py, store) = (cache.py(), cache.store);
    let lifetime = lifetime(cache, ttl(ttl_seconds)?, optional("sensitivity", sensitivity)?)?;
    let tags = Tags::of_decision(tags)?;
    let numbers = store.cache.log().tags(&tags.names);
    let caller = Task::current(py)?;
    let mut keys = Keys::of(policy);
    let begun = PyList::empty(py);
    rows("requests", requests.as_any(), &(3..=4), SHAPE, |row| {
        let loader = loaders.get_item(begun.len())?;
        let key = tags.all().and_then(|()| Ok(keys.next(row)?.to_key()));
        match key {
            Ok(key) => {
                let request = load_request(cache, key, lifetime, numbers.clone(), &loader);
                begun.append(Load::of_batch(py, request, &caller)?)
            }
            Err(fault) if store.serves() => {
                cache.report("get_or_load_many", fault)?;
                store.cache.stats().counters.loads.increment();
                begun.append(py.None())
            }
            Err(fault) => fault.pass_wrong_type().and_then(|()| begun.append(py.None())),
        }
    })?;
    Ok(begun)
}

/// Starts a refresh of the entry of a request, led by the caller. Returns `None` if there is no
/// entry, or if a load or refresh of it is still running.
///
/// The new entry gets the time to live and the tags of the one that it replaces.
pub fn lead_refresh<'py>(
    cache: Instance<'_, 'py>,
    callback: &Bound<'py, PyAny>,
    Request { policy, fields, context }: Request<'_, 'py>,
    sensitivity: &Bound<'py, PyString>,
) -> PyResult<Option<Load>> {
    let (py, store) = (cache.py(), cache.store);
    // A copy: the callback gets the context that the key was made of, even if the caller changes
    // its own object in the meantime.
    let context = context.map(|context| Stored::from_python(context)?.to_python(py)).transpose()?;
    let context = context.as_ref();
    let key = key::request(Request { policy, fields, context }, KeyWriter::to_key)?;
    let Some(entry) = store.cache.look_up(key.as_bytes()) else {
        return Ok(None);
    };
    let [user_id, action, resource] = fields;
    let evaluate = py
        .import(interned!(py, "functools"))?
        .call_method1(interned!(py, "partial"), (callback, user_id, action, resource, context))?;
    let lifetime = lifetime(cache, Some(entry.ttl()), Some(sensitivity))?;
    let tags = entry.tags().clone();
    Load::refresh(py, load_request(cache, key, lifetime, tags, &evaluate))
}

fn load_request(
    Instance { object, store }: Instance<'_, '_>,
    key: Key,
    lifetime: Lifetime,
    tags: sark_cache_core::Tags,
    loader: &Bound<'_, PyAny>,
) -> LoadRequest {
    let Store { cache, loads, switch, .. } = store;
    LoadRequest {
        owner: Owner {
            object: object.clone().unbind(),
            switch: Arc::clone(switch),
            on_fault: OnFault::Report(report),
        },
        cache: Arc::clone(cache),
        loads: Arc::clone(loads),
        key,
        lifetime,
        tags,
        loader: loader.clone().unbind(),
    }
}
