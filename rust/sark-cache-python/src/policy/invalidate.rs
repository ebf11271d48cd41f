//! `delete`, `invalidate`, `invalidate_pattern`, `clear` and `close`.

use crate::awaitable::{NOTHING, awaitable, ready};
use crate::convert::arguments::{Given, Request, fields, optional, string};
use crate::convert::key::request;
use crate::convert::tags::Tags;
use crate::error::{Fault, InvalidationError, is_longer, text, text_within};
use crate::policy::report::log;
use crate::policy::store::{Instance, Store};
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use sark_cache_core::limits::{MAX_FIELD_BYTES, MAX_PATTERN_BYTES, MAX_POLICY_BYTES};
use sark_cache_core::{Glob, KeyWriter, Scope};
use std::sync::atomic::Ordering;

/// Removes the entry of a request, under one policy or, for None, under all.
pub fn delete<'py>(
    cache: Instance<'_, 'py>,
    [user_id, action, resource]: [&Bound<'py, PyAny>; 3],
    context: Option<&Bound<'py, PyAny>>,
    policy: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, store) = (cache.py(), cache.store);
    let fields = fields(user_id, action, resource)?;
    let policy = optional("policy", policy)?.map(Bound::as_borrowed);
    match request(Request { policy, fields, context }, KeyWriter::to_key) {
        Ok(key) if policy.is_some() => {
            let removed = store.cache.remove(key.as_bytes());
            awaitable(py, async move { Ok(removed.await) })
        }
        Ok(key) => {
            let removed = store.cache.remove_request(key.as_bytes());
            awaitable(py, async move { Ok(removed.await) })
        }
        Err(Fault::Raised(error)) if error.is_instance_of::<PyException>(py) => {
            // Its key is unknown, so its removal cannot be confirmed.
            let unconfirmed = InvalidationError::new_err(
                "delete could not be confirmed: the context's own code raised, so the key of the \
                 request is unknown. Pass a context that is a dict of plain JSON values",
            );
            unconfirmed.set_cause(py, Some(error));
            Err(unconfirmed)
        }
        // A request without a key was never stored.
        Err(fault) => {
            cache.report("delete", fault)?;
            ready(py, false)
        }
    }
}

/// Revokes every decision that matches all given names; returns the number of entries removed.
///
/// `named` are user, action, resource and policy.
pub fn invalidate<'py>(
    cache: Instance<'_, 'py>,
    named: [Option<&Bound<'py, PyAny>>; 4],
    tags: Given<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAMES: [&str; 4] = ["user_id", "action", "resource", "policy"];
    const LIMITS: [usize; 4] =
        [MAX_FIELD_BYTES, MAX_FIELD_BYTES, MAX_FIELD_BYTES, MAX_POLICY_BYTES];
    let (py, store) = (cache.py(), cache.store);
    let mut given = [None; 4];
    for (at, named) in named.into_iter().enumerate() {
        given[at] = optional(NAMES[at], named)?;
    }
    let tags = Tags::to_revoke(tags)?;
    let mut parts = [None; 4];
    for (at, given) in given.into_iter().enumerate() {
        match given.map(|given| text_within(NAMES[at], given, LIMITS[at])).transpose() {
            Ok(text) => parts[at] = text,
            // No decision was ever stored under it, so there is none to revoke.
            Err(fault) => {
                cache.report("invalidate", fault)?;
                return ready(py, 0);
            }
        }
    }
    if let Some(tags) = &tags
        && let Err(fault) = tags.all()
    {
        cache.report("invalidate", fault)?;
        if tags.names.is_empty() {
            return ready(py, 0);
        }
    }
    let tags = tags.unwrap_or_default();
    let tags: Vec<&str> = tags.names.iter().map(String::as_str).collect();
    let [user_id, action, resource, policy] = parts;
    let scope = Scope::under(policy, [user_id, action, resource], &tags);
    if scope == Scope::Everything {
        log(cache.object, interned!(py, "_revokes_everything"), ())?;
    }
    let removed = store.cache.invalidate(scope);
    awaitable(py, async move { Ok(removed.await) })
}

/// Revokes every decision whose text key matches a Redis glob; returns the number of entries
/// removed.
pub fn invalidate_pattern<'py>(
    cache: Instance<'_, 'py>,
    pattern: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let pattern = string("pattern", pattern)?;
    let too_long = || {
        PyValueError::new_err(format!(
            "pattern must be at most {MAX_PATTERN_BYTES} bytes: shorten it, or use invalidate()"
        ))
    };
    if is_longer(pattern, MAX_PATTERN_BYTES) {
        return Err(too_long());
    }
    let text = text(pattern).map_err(|fault| fault.of("pattern"))?;
    let glob = Glob::new(text).ok_or_else(too_long)?;
    let removed = cache.store.cache.invalidate(Scope::Glob(glob));
    awaitable(cache.py(), async move { Ok(removed.await) })
}

/// Revokes all decisions; returns True.
pub fn clear<'py>(py: Python<'py>, store: &Store) -> PyResult<Bound<'py, PyAny>> {
    let removed = store.cache.invalidate(Scope::Everything);
    awaitable(py, async move {
        removed.await;
        Ok(true)
    })
}

/// Stops serving and removes all entries.
pub fn close<'py>(py: Python<'py>, store: &Store) -> PyResult<Bound<'py, PyAny>> {
    store.switch.closed.store(true, Ordering::Release);
    let removed = store.cache.invalidate(Scope::Everything);
    awaitable(py, async move {
        removed.await;
        Ok(NOTHING)
    })
}
