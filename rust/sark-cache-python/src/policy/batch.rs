//! Many look-ups in one call: 0.3–0.6 µs for a hit, less than 0.4 × what it costs alone.
//!
//! The call, the awaitable, the clock and the counters are paid once. Rows of the same user and
//! action share that part of the key. What is left is mostly moka's look-up. First all are looked up and then all are rebuilt: the processor
//! overlaps more of that than when each is rebuilt at once (by a tenth).

use crate::awaitable::NOTHING;
use crate::convert::arguments::rows;
use crate::convert::key::{Keys, Policy};
use crate::policy::PolicyStore;
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::iter::repeat_n;
use std::time::Instant;

/// The decisions for many requests under one policy, in their order.
pub fn get<'py>(
    slf: &Bound<'py, PolicyStore>,
    requests: &Bound<'py, PyAny>,
    policy: Policy<'_, 'py>,
) -> PyResult<Bound<'py, PyList>> {
    let (py, store) = (slf.py(), slf.get().store()?);
    let started = Instant::now();
    let (argument, shape) = ("requests", "(user_id, action, resource, context)");
    if !store.serves() {
        let asked = rows(argument, requests, &(3..=4), shape, |row| {
            row.fields()?;
            Ok(())
        })?;
        return PyList::new(py, repeat_n(NOTHING, asked));
    }
    let about = requests.cast_exact::<PyList>().map_or(0, PyListMethods::len);
    let mut look_ups = store.cache.look_ups(about);
    let mut keys = Keys::of(policy);
    rows(argument, requests, &(3..=4), shape, |row| match keys.next(row) {
        Ok(key) => {
            look_ups.look_up(key);
            Ok(())
        }
        Err(fault) => {
            look_ups.miss();
            PolicyStore::report(slf, "get_batch", fault)
        }
    })?;

    let stats = store.cache.stats();
    stats.counters.batch_operations.increment();
    let found = look_ups.finish();
    let mut failed = None;
    let decisions = found.iter().map(|entry| {
        let decision = entry.as_ref()?.value().to_python(py);
        decision.map_err(|error| failed = Some(error)).ok()
    });
    let decisions = PyList::new(py, decisions)?;
    stats.record_batch(found.len(), started.elapsed());
    failed.map_or(Ok(decisions), Err)
}
