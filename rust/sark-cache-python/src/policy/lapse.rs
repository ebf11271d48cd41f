//! Lookups of a cache whose lease has ended: they may wait for a new one, and look up again.
//!
//! A process that was stopped, or whose machine slept, has no valid lease when it resumes. Its first
//! requests would all evaluate, although a confirmation of the shared log takes a millisecond. So the
//! Python class may let them wait, for a moment, for one confirmation that they share. A request that
//! waits is counted when it is looked up again.

use crate::policy::store::{Instance, Store};
use crate::value::Stored;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyList};
use sark_cache_core::{Cache, Entry, Key, poll_once};
use std::sync::Arc;

/// Reads the decision of an entry.
pub type Reader = for<'py> fn(Python<'py>, &Entry<Stored>) -> PyResult<Bound<'py, PyAny>>;

/// Returns whether the lease has ended. Costs one atomic load if it never ends.
#[inline]
pub fn has_lapsed(store: &Store) -> bool {
    !store.cache.lease().is_valid()
}

/// Returns an awaitable that waits for a lease, looks a request up again, and otherwise awaits
/// `otherwise`. None: the Python class does not wait now.
#[cold]
pub fn wait<'py>(
    cache: Instance<'_, 'py>,
    key: Key,
    read: Reader,
    otherwise: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let entries = Arc::clone(&cache.store.cache);
    let again = PyCFunction::new_closure(cache.py(), None, None, move |arguments, _| {
        let py = arguments.py();
        match poll_once(entries.get(key.as_bytes())).flatten() {
            Some(entry) => read(py, &entry).map(Bound::unbind),
            None => Ok(py.None()),
        }
    })?;
    call(cache, &again, otherwise)
}

/// Returns an awaitable that waits for a lease and then looks many requests up again. None: the
/// Python class does not wait now.
#[cold]
pub fn wait_many<'py>(
    cache: Instance<'_, 'py>,
    keys: Vec<Option<Key>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let entries = Arc::clone(&cache.store.cache);
    let again = PyCFunction::new_closure(cache.py(), None, None, move |arguments, _| {
        let py = arguments.py();
        look_up_many(py, &entries, &keys).map(Bound::unbind)
    })?;
    call(cache, &again, None)
}

fn look_up_many<'py>(
    py: Python<'py>,
    cache: &Cache<Stored>,
    keys: &[Option<Key>],
) -> PyResult<Bound<'py, PyList>> {
    let mut look_ups = cache.batch_lookup(keys.len());
    for key in keys {
        match key {
            Some(key) => look_ups.look_up(key.as_bytes()),
            None => look_ups.miss(),
        }
    }
    let found = look_ups.finish();
    let decisions = found.iter().map(|entry| match entry {
        Some(entry) => entry.value().to_python(py),
        None => Ok(py.None().into_bound(py)),
    });
    PyList::new(py, decisions.collect::<PyResult<Vec<_>>>()?)
}

fn call<'py>(
    cache: Instance<'_, 'py>,
    again: &Bound<'py, PyCFunction>,
    otherwise: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let waiting =
        cache.object.call_method1(interned!(cache.py(), "_lapsed"), (again, otherwise))?;
    Ok((!waiting.is_none()).then_some(waiting))
}
