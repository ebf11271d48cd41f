//! `get` and `get_decision`, and the part of a lookup that `get_or_load` shares with them.

use crate::awaitable::ready;
use crate::convert::arguments::{Request, RequestArguments, optional};
use crate::convert::key::request;
use crate::error::Fault;
use crate::policy::lapse::{self, Reader, has_lapsed};
use crate::policy::store::Instance;
use crate::policy::ttl::is_refreshed;
use crate::value::Stored;
use pyo3::prelude::*;
use pyo3::types::PyString;
use sark_cache_core::{Entry, KeyWriter};

/// Returns the decision for a request as a new dict, or None.
#[inline]
pub fn get<'py>(
    cache: Instance<'_, 'py>,
    request: RequestArguments<'_, 'py>,
    sensitivity: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    look_up(cache, "get", request, sensitivity, |py, entry| entry.value().to_python(py))
}

/// Returns the shared `Decision` for a request, or None.
#[inline]
pub fn get_decision<'py>(
    cache: Instance<'_, 'py>,
    request: RequestArguments<'_, 'py>,
    sensitivity: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    look_up(cache, "get_decision", request, sensitivity, |py, entry| {
        entry.value().decision(py).map(Bound::into_any)
    })
}

/// Returns the result of `read` for the entry of a request, or None: as a finished awaitable,
/// unless it waits for a lease.
#[inline]
fn look_up<'py>(
    cache: Instance<'_, 'py>,
    operation: &str,
    request: RequestArguments<'_, 'py>,
    sensitivity: Option<&Bound<'py, PyAny>>,
    read: Reader,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, store) = (cache.py(), cache.store);
    let request = request.read()?;
    let sensitivity = optional("sensitivity", sensitivity)?;
    if !store.serves() {
        return ready(py, py.None());
    }
    let started = store.cache.stats().start();
    let missed = |key: &KeyWriter| has_lapsed(store).then(|| key.to_key());
    let served = serve(cache, request, sensitivity, |entry| read(py, entry), missed);
    store.cache.stats().stop(started);
    match served {
        Ok(Ok(decision)) => ready(py, decision),
        Ok(Err(lapsed)) => {
            if let Some(key) = lapsed
                && let Some(waiting) = lapse::wait(cache, key, read, None)?
            {
                return Ok(waiting);
            }
            store.cache.count_miss();
            ready(py, py.None())
        }
        Err(fault) => {
            cache.report(operation, fault)?;
            ready(py, py.None())
        }
    }
}

/// Returns the result of `found` for the entry of a request. After a miss, returns the result of
/// `missed` for the key.
///
/// Starts a refresh of an entry that is near its expiration. Counts a hit, a stale hit or a fault;
/// the caller counts a miss.
#[inline]
pub fn serve<'py, K>(
    cache: Instance<'_, 'py>,
    request: Request<'_, 'py>,
    sensitivity: Option<&Bound<'py, PyString>>,
    found: impl FnOnce(&Entry<Stored>) -> PyResult<Bound<'py, PyAny>>,
    missed: impl FnOnce(&KeyWriter) -> K,
) -> Result<Result<Bound<'py, PyAny>, K>, Fault> {
    let store = cache.store;
    let counters = &store.cache.stats().counters;
    let entry = match store.look_up(request, missed) {
        Ok(Ok(entry)) => entry,
        Ok(Err(missed)) => return Ok(Err(missed)),
        // An argument of a wrong type is raised. It is not a request, so it is not counted.
        Err(fault @ Fault::WrongType(_)) => return Err(fault),
        Err(fault) => {
            store.cache.count_miss();
            return Err(fault);
        }
    };
    let stale = match sensitivity {
        Some(sensitivity) => refresh_ahead(cache, &entry, request, sensitivity)?,
        None => false,
    };
    if stale { &counters.stale_hits } else { &counters.hits }.increment();
    Ok(Ok(found(&entry)?))
}

/// Starts a refresh of an entry that is near its expiration, unless one is running: calls
/// `_refresh_ahead` of the Python class. Returns whether the entry is being refreshed.
fn refresh_ahead(
    cache: Instance<'_, '_>,
    entry: &Entry<Stored>,
    asked: Request<'_, '_>,
    sensitivity: &Bound<'_, PyString>,
) -> PyResult<bool> {
    let Instance { object, store } = cache;
    let py = cache.py();
    let refresh = || -> Result<bool, Fault> {
        if !is_refreshed(cache, sensitivity)? {
            return Ok(false);
        }
        let fraction = object.getattr(interned!(py, "STALE_THRESHOLD_RATIO"))?.extract()?;
        if !store.cache.is_near_expiry(entry, fraction) {
            return Ok(false);
        }
        let refreshing = request(asked, |key| store.loads.refreshes(key.as_bytes()))?;
        if store.loads.holds(py, refreshing)? {
            return Ok(true);
        }
        let Request { policy, fields: [user_id, action, resource], context } = asked;
        let policy = policy.map_or_else(|| PyString::new(py, ""), Borrowed::to_owned);
        let arguments = (user_id, action, resource, context, sensitivity, policy);
        Ok(object.call_method1(interned!(py, "_refresh_ahead"), arguments)?.is_truthy()?)
    };
    refresh().or_else(|fault| {
        // A refresh that cannot start does not fail the hit.
        cache.report("refresh", fault)?;
        Ok(false)
    })
}
