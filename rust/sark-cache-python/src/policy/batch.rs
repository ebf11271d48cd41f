//! `get_batch` and `set_batch`.
//!
//! A lookup in a batch costs 0.3–0.6 µs, less than 0.4 × a `get`: the call, the awaitable, the clock
//! and the counters are paid once, and rows of the same user and action share that part of the key.
//! Most of the rest is moka's lookup. All rows are looked up before the first decision is rebuilt:
//! the processor overlaps more of that work, which saves a tenth.

use crate::awaitable::{NOTHING, ready};
use crate::convert::arguments::{Policy, Request, ttl};
use crate::convert::key::Keys;
use crate::convert::rows::rows;
use crate::convert::tags::Tags;
use crate::error::wrong_type;
use crate::policy::lapse::{self, has_lapsed};
use crate::policy::store::Instance;
use crate::policy::ttl::lifetime;
use crate::value::Stored;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use sark_cache_core::Entry;
use std::iter::repeat_n;
use std::sync::Arc;
use std::time::Instant;

/// The shape of a request in a batch, as error messages call it.
pub const SHAPE: &str = "(user_id, action, resource, context)";

/// Returns an awaitable of the decisions for many requests under one policy, in their order, None
/// for a miss.
pub fn get<'py>(
    cache: Instance<'_, 'py>,
    requests: &Bound<'py, PyAny>,
    policy: Policy<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, store) = (cache.py(), cache.store);
    let started = Instant::now();
    if !store.serves() {
        let count = rows("requests", requests, &(3..=4), SHAPE, |row| {
            row.fields()?;
            Ok(())
        })?;
        return ready(py, PyList::new(py, repeat_n(NOTHING, count))?);
    }
    let about = requests.cast_exact::<PyList>().map_or(0, PyListMethods::len);
    let mut look_ups = store.cache.batch_lookup(about);
    let mut keys = Keys::of(policy);
    let mut lapsed = has_lapsed(store).then(Vec::new);
    rows("requests", requests, &(3..=4), SHAPE, |row| match keys.next(row) {
        Ok(key) => {
            look_ups.look_up(key.as_bytes());
            if let Some(lapsed) = &mut lapsed {
                lapsed.push(Some(key.to_key()));
            }
            Ok(())
        }
        Err(fault) => {
            look_ups.miss();
            if let Some(lapsed) = &mut lapsed {
                lapsed.push(None);
            }
            cache.report("get_batch", fault)
        }
    })?;

    let stats = store.cache.stats();
    stats.counters.batch_operations.increment();
    if let Some(keys) = lapsed
        && let Some(waiting) = lapse::wait_many(cache, keys)?
    {
        return Ok(waiting);
    }
    let found = look_ups.finish();
    let mut failed = None;
    let decisions = found.iter().map(|entry| {
        let decision = entry.as_ref()?.value().to_python(py);
        decision.map_err(|error| failed = Some(error)).ok()
    });
    let decisions = PyList::new(py, decisions)?;
    stats.record_batch(found.len(), started.elapsed());
    if let Some(error) = failed {
        return Err(error);
    }
    ready(py, decisions)
}

/// Looks up the decisions for many resources, without building them: returns a list with True or
/// False for each, and None for a miss. Counts the hits, and no misses.
pub fn allowed<'py>(
    cache: Instance<'_, 'py>,
    user: [&Bound<'py, PyString>; 2],
    resources: &Bound<'py, PyList>,
    context: Option<&Bound<'py, PyAny>>,
    policy: Policy<'_, 'py>,
) -> PyResult<Bound<'py, PyList>> {
    let (py, store) = (cache.py(), cache.store);
    let (started, serves) = (Instant::now(), store.serves());
    let mut look_ups = store.cache.batch_lookup(resources.len());
    let mut keys = Keys::of(policy);
    for (at, resource) in resources.iter().enumerate() {
        let wrong = |_| wrong_type(&format!("resources[{at}]"), "a str", &resource);
        match keys.of_resource(user, resource.cast().map_err(wrong)?, context) {
            Ok(key) if serves => look_ups.look_up(key.as_bytes()),
            Ok(_) => look_ups.miss(),
            // Not reported: the request is looked up again.
            Err(fault) => fault.pass_wrong_type().map(|()| look_ups.miss())?,
        }
    }
    let name = interned!(py, "allow");
    let found = look_ups.finish_hits();
    let read = |entry: &Arc<Entry<Stored>>| entry.value().is_true(py, name);
    let allowed = found.iter().map(|entry| entry.as_ref().map(read).transpose());
    let allowed = allowed.collect::<PyResult<Vec<_>>>()?;
    store.cache.stats().record_batch(found.iter().flatten().count(), started.elapsed());
    PyList::new(py, allowed)
}

/// Stores many decisions; returns the number that were stored.
pub fn set<'py>(
    cache: Instance<'_, 'py>,
    entries: &Bound<'py, PyAny>,
    tags: &Tags,
    stamp: sark_cache_core::Stamp,
    policy: Policy<'_, 'py>,
) -> PyResult<u64> {
    let store = cache.store;
    let numbers = store.cache.log().tags(&tags.names);
    let serves = store.serves();
    if serves {
        store.cache.stats().counters.batch_operations.increment();
    }
    let mut stored = 0;
    let shape = "(user_id, action, resource, decision, context, ttl_seconds)";
    rows("entries", entries, &(4..=6), shape, |row| {
        let ttl = lifetime(cache, ttl(row.get(5))?, None)?.choose(None);
        let request = Request { policy, fields: row.fields()?, context: row.get(4) };
        let tags = tags.all().map(|()| numbers.clone());
        match cache.prepare_insert(request, &row.items[3], tags, ttl) {
            Ok(insert) if serves => {
                stored += u64::from(store.insert(cache.py(), insert, stamp));
                Ok(())
            }
            Ok(insert) => {
                store.discard(insert);
                Ok(())
            }
            Err(fault) if serves => cache.report("set_batch", fault),
            Err(fault) => fault.pass_wrong_type(),
        }
    })?;
    Ok(stored)
}
