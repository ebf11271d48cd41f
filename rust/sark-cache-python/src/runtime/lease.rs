//! The lease of the native caches that share an invalidation log with other processes.

use super::fork_guard::fork_excluded;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// The right to serve cached decisions, until a moment. Its owner extends it again and again.
///
/// Several caches may have the same lease. In a forked child it ends before any other code runs,
/// because the child does not have the thread that extends it.
#[pyclass(frozen, module = "sark_cache._native")]
pub struct Lease(Arc<sark_cache_core::Lease>);

impl Lease {
    /// Returns the lease as the core crate has it.
    pub fn shared(&self) -> sark_cache_core::Lease {
        sark_cache_core::Lease::clone(&self.0)
    }
}

#[pymethods]
impl Lease {
    /// Creates a lease under which nothing is served until `extend` is called.
    #[new]
    fn new(py: Python<'_>) -> Self {
        let lease = Arc::new(sark_cache_core::Lease::none());
        // No thread holds the list while the process forks, so the child can lock it.
        fork_excluded(py, || {
            let mut leases = leases();
            leases.retain(|lease| lease.strong_count() > 0);
            leases.push(Arc::downgrade(&lease));
        });
        Self(lease)
    }

    /// Returns the time of the lease's clock in nanoseconds. Read it before the request that
    /// confirms the lease is sent. The clock counts the time for which the machine sleeps.
    fn now(&self) -> u64 {
        self.0.now()
    }

    /// Extends the lease to `sent` plus `seconds`. It never becomes shorter.
    ///
    /// `sent` is the result of `now()` before the confirming request was sent. Call it after every
    /// record of the confirmation was applied to every cache that has the lease.
    fn extend(&self, sent: u64, seconds: f64) -> PyResult<()> {
        let length = Duration::try_from_secs_f64(seconds)
            .map_err(|error| PyValueError::new_err(format!("seconds: {error}")))?;
        self.0.extend(sent, length);
        Ok(())
    }

    /// Ends the lease now.
    fn end(&self) {
        self.0.end();
    }

    /// Returns the time in seconds for which decisions may still be served. 0.0: there is no lease.
    fn remaining(&self) -> f64 {
        self.0.remaining().as_secs_f64()
    }
}

/// The leases of this process.
static LEASES: Mutex<Vec<Weak<sark_cache_core::Lease>>> = Mutex::new(Vec::new());

fn leases() -> MutexGuard<'static, Vec<Weak<sark_cache_core::Lease>>> {
    LEASES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends every lease, in a forked child.
pub fn end_all() {
    for lease in leases().iter().filter_map(Weak::upgrade) {
        lease.end();
    }
}
