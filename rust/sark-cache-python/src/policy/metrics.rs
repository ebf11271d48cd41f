//! The numbers behind the metrics of a policy cache.

use crate::policy::store::Store;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sark_cache_core::metrics::{Distribution, Latencies, Latency};
use std::time::Duration;

/// Records the duration of one evaluation, in milliseconds.
pub fn record_evaluation(store: &Store, latency_ms: f64) -> PyResult<()> {
    let duration = Duration::try_from_secs_f64(latency_ms / 1e3).map_err(|_| {
        PyValueError::new_err(format!(
            "latency_ms must be a finite number, 0 or more, not {latency_ms}"
        ))
    })?;
    store.cache.stats().evaluations.record(duration);
    Ok(())
}

/// Returns the number of durations below each of the rising `bounds`, which are nanoseconds; the
/// sum of all durations in seconds; and their number.
pub fn distribution(latency: &Latency, bounds: &[u64]) -> (Vec<u64>, f64, u64) {
    let Distribution { below, count, sum } = latency.distribution(bounds);
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days")]
    let seconds = sum as f64 / 1e9;
    (below, seconds, count)
}

/// Returns all counters, sizes and latencies by the names of the fields of `CacheMetrics`.
pub fn snapshot<'py>(py: Python<'py>, store: &Store) -> PyResult<Bound<'py, PyDict>> {
    let snapshot = store.cache.snapshot();
    let numbers = PyDict::new(py);
    for (name, count) in snapshot.counts.iter().chain(snapshot.coherence.iter()) {
        numbers.set_item(name, count)?;
    }
    let Latencies { p50, p95, p99, .. } = snapshot.requests;
    numbers.set_item("size", store.cache.entry_count())?;
    numbers.set_item("max_size", store.max_size)?;
    numbers.set_item("avg_cache_latency_ms", snapshot.requests.mean() / 1e6)?;
    numbers.set_item("avg_opa_latency_ms", snapshot.evaluations.mean() / 1e6)?;
    for (name, nanos) in [("p50", p50), ("p95", p95), ("p99", p99)] {
        #[expect(clippy::cast_precision_loss, reason = "at most 2^36")]
        numbers.set_item(format!("cache_latency_{name}_us"), nanos as f64 / 1e3)?;
    }
    Ok(numbers)
}
