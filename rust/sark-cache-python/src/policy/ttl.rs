//! Sensitivities: the longest time to live that each allows, and which entries are refreshed.
//!
//! [`Lifetime`] chooses the time to live.

use crate::convert::arguments::ttl;
use crate::load::lifetime::Lifetime;
use crate::policy::report::log;
use crate::policy::store::{Instance, Sensitivity};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Returns the times to live that a decision can get, given the one of the caller.
pub fn lifetime(
    cache: Instance<'_, '_>,
    given: Option<Duration>,
    sensitivity: Option<&Bound<'_, PyString>>,
) -> PyResult<Lifetime> {
    Ok(Lifetime { given, default: cache.store.ttl(), max: max_ttl(cache, sensitivity)? })
}

/// Returns the longest time to live that a sensitivity allows, from the class's `OPTIMIZED_TTL`.
/// Logs a warning for an unknown sensitivity, which has no limit.
fn max_ttl(
    cache: Instance<'_, '_>,
    sensitivity: Option<&Bound<'_, PyString>>,
) -> PyResult<Duration> {
    let Instance { object, store } = cache;
    let Some(sensitivity) = sensitivity.filter(|_| store.use_optimized_ttl.load(Ordering::Relaxed))
    else {
        return Ok(Duration::MAX);
    };
    let table = object.getattr(interned!(cache.py(), "OPTIMIZED_TTL"))?;
    let seconds = table.call_method1(interned!(cache.py(), "get"), (sensitivity,))?;
    if let Some(longest) = ttl(Some(&seconds))? {
        return Ok(longest);
    }
    log(object, interned!(cache.py(), "_unknown_sensitivity"), (sensitivity,))?;
    Ok(Duration::MAX)
}

/// Reads the sensitivities of a cache's class, from its `REFRESHED_SENSITIVITIES` and `OPTIMIZED_TTL`.
///
/// A name of the table that is not text is left out. Requests with it look it up in the table.
pub fn sensitivities(object: &Bound<'_, PyAny>) -> PyResult<Box<[Sensitivity]>> {
    let py = object.py();
    let refreshed = object.getattr(interned!(py, "REFRESHED_SENSITIVITIES"))?;
    let mut known = Vec::new();
    for name in refreshed.try_iter()? {
        known.push(Sensitivity { name: name?.extract()?, is_refreshed: true });
    }
    for name in object.getattr(interned!(py, "OPTIMIZED_TTL"))?.try_iter()? {
        if let Ok(name) = name?.extract() {
            known.push(Sensitivity { name, is_refreshed: false });
        }
    }
    Ok(known.into())
}

/// Returns whether entries of a sensitivity are refreshed before they expire. Logs a warning for an
/// unknown sensitivity, whose entries are not.
pub fn is_refreshed(cache: Instance<'_, '_>, sensitivity: &Bound<'_, PyString>) -> PyResult<bool> {
    let named = |name| cache.store.sensitivities.iter().find(|known| known.name == name);
    match sensitivity.to_str().ok().and_then(named) {
        Some(known) => Ok(known.is_refreshed),
        None => max_ttl(cache, Some(sensitivity)).map(|_| false),
    }
}

/// Returns a time to live in seconds: an int if it is a whole number of them, else a float.
pub fn seconds(py: Python<'_>, ttl: Duration) -> PyResult<Bound<'_, PyAny>> {
    if ttl.subsec_nanos() == 0 {
        ttl.as_secs().into_bound_py_any(py)
    } else {
        #[expect(clippy::cast_precision_loss, reason = "a time to live does not need 53 bits")]
        (ttl.as_nanos() as f64 / 1e9).into_bound_py_any(py)
    }
}
