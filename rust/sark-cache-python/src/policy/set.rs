//! `set`.

use crate::awaitable::ready;
use crate::convert::arguments::{RequestArguments, optional, ttl};
use crate::convert::tags::Tags;
use crate::error::Fault;
use crate::policy::store::Instance;
use crate::policy::ttl::lifetime;
use pyo3::prelude::*;

/// The unchecked arguments that say how a decision is stored.
#[derive(Clone, Copy)]
pub struct StorageArguments<'a, 'py> {
    pub ttl_seconds: Option<&'a Bound<'py, PyAny>>,
    pub sensitivity: Option<&'a Bound<'py, PyAny>>,
    pub tags: Option<&'a Bound<'py, PyAny>>,
}

/// Stores a snapshot of a decision; returns whether it was stored.
pub fn set<'py>(
    cache: Instance<'_, 'py>,
    request: RequestArguments<'_, 'py>,
    decision: &Bound<'py, PyAny>,
    StorageArguments { ttl_seconds, sensitivity, tags }: StorageArguments<'_, 'py>,
    stamp: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, store) = (cache.py(), cache.store);
    let stamp = store.stamp_or_now(stamp)?;
    let request = request.read()?;
    let given = ttl(ttl_seconds)?;
    let ttl = lifetime(cache, given, optional("sensitivity", sensitivity)?)?.choose(None);
    let tags = Tags::of_decision(tags)?;
    let numbers = store.cache.log().tags(&tags.names);
    let insert = cache.prepare_insert(request, decision, tags.all().map(|()| numbers), ttl);
    if !store.serves() {
        // An argument of a wrong type is raised while the cache is off, too.
        insert.map_or_else(Fault::pass_wrong_type, |insert| {
            store.discard(insert);
            Ok(())
        })?;
        return ready(py, false);
    }
    match insert {
        Ok(insert) => ready(py, store.insert(py, insert, stamp)),
        Err(fault) => {
            cache.report("set", fault)?;
            ready(py, false)
        }
    }
}
