//! The running loads of one cache, and the timer that checks the requests that wait.

use crate::load::event_loop::{call_later, running_loop};
use crate::load::outcome::SharedOutcome;
use crate::load::task::Task;
use crate::load::wake::wake_batched;
use crate::runtime::fork_guard::generation;
use crate::runtime::run_in_background;
use crate::value::Stored;
use pyo3::prelude::*;
use sark_cache_core::clock::nanos;
use sark_cache_core::single_flight::{CHECK_INTERVAL, FlightId, Pauses, WaitGraph};
use sark_cache_core::{Cache, Flights, Key};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// The wait graph of all caches of this process.
static GRAPH: LazyLock<Arc<WaitGraph<Task>>> = LazyLock::new(Arc::default);

/// The maximum number of slow loads that one check examines.
const MAX_EXAMINED: usize = 256;

/// Removes the entry under `key`, because a decision that is not stored superseded it.
pub fn remove_superseded(cache: &Arc<Cache<Stored>>, key: Key) {
    let cache = Arc::clone(cache);
    run_in_background(async move { cache.remove_superseded(key.as_bytes()).await });
}

/// The loads of one cache that are running.
pub struct LoadRegistry {
    flights: Arc<Flights<SharedOutcome, Task>>,
    generation: AtomicU64,
    /// The event loops that have an [`Alarm`], by their addresses, and whether it is alive.
    watched: Mutex<Vec<(usize, Weak<()>)>>,
    /// The pauses after refreshes that returned no decision.
    pub pauses: Pauses,
}

impl LoadRegistry {
    pub fn new(cache: &Cache<Stored>) -> Arc<Self> {
        let flights = Flights::new(Arc::clone(cache.log()), Arc::clone(&GRAPH));
        let flights = Arc::new(flights.with_lease(cache.lease().clone()));
        let (generation, watched) = (AtomicU64::new(generation()), Mutex::default());
        Arc::new(Self { flights, generation, watched, pauses: Pauses::default() })
    }

    /// Keeps a running load from overwriting the decision that is about to be stored.
    pub fn supersede(&self, key: &[u8]) {
        self.flights().supersede(key);
    }

    /// Returns the state of the refresh of an entry.
    pub fn refreshes(&self, key: &[u8]) -> Refreshing {
        if self.pauses.has(key, now()) {
            return Refreshing::Pauses;
        }
        let led = self.flights().running_refresh(key);
        led.map_or(Refreshing::No, |(flight, leader)| Refreshing::Led(flight, leader))
    }

    /// Returns true if no refresh must be started. A refresh whose task no longer runs is
    /// abandoned, because no request waits for it.
    pub fn holds(&self, py: Python<'_>, refreshing: Refreshing) -> PyResult<bool> {
        match refreshing {
            Refreshing::No => Ok(false),
            Refreshing::Pauses => Ok(true),
            Refreshing::Led(_, leader) if leader.can_run(py)? => Ok(true),
            Refreshing::Led(flight, leader) => {
                self.flights().end_abandoned(flight, &leader);
                Ok(false)
            }
        }
    }

    /// Returns the running loads of this process.
    pub fn flights(&self) -> &Arc<Flights<SharedOutcome, Task>> {
        // The tasks of the parent do not run in a forked child.
        let now = generation();
        if self.generation.load(Ordering::Acquire) != now
            && self.generation.swap(now, Ordering::AcqRel) != now
        {
            self.flights.forget();
            lock(&self.watched).clear();
        }
        &self.flights
    }

    /// Makes the running event loop check the waiters at intervals.
    pub fn watch(self: &Arc<Self>, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let address = event_loop.as_ptr() as usize;
        let alive = Arc::new(());
        let mut watched = lock(&self.watched);
        let lives = |alive: &Weak<()>| alive.strong_count() > 0;
        if watched.iter().any(|(watched, alive)| *watched == address && lives(alive)) {
            return Ok(());
        }
        watched.retain(|(_, alive)| lives(alive));
        watched.push((address, Arc::downgrade(&alive)));
        drop(watched);
        let alarm = Alarm { loads: Arc::downgrade(self), _alive: alive };
        call_later(event_loop, CHECK_INTERVAL, Bound::new(event_loop.py(), alarm)?.as_any())
    }

    /// Checks the waiters. Returns true if there are any.
    fn check_waiters(&self, py: Python<'_>) -> PyResult<bool> {
        let flights = self.flights();
        let check = flights.check_waiters(now());
        for (flight, leader) in check.slow.into_iter().take(MAX_EXAMINED) {
            if !leader.can_run(py)? {
                flights.end_abandoned(flight, &leader);
            } else if GRAPH.is_deadlocked(&leader, |task| task.waits_for(py)) {
                flights.retry_waiters(flight);
            }
        }
        Ok(check.pending)
    }
}

/// The state of the refresh of an entry.
pub enum Refreshing {
    No,
    /// The last refresh returned no decision, and its pause is not over.
    Pauses,
    /// It is running, led by a task.
    Led(FlightId, Task),
}

/// Returns the time of a monotonic clock, in nanoseconds.
pub fn now() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    nanos(ORIGIN.elapsed())
}

/// The callback of an event loop, called every [`CHECK_INTERVAL`] while requests wait.
#[pyclass(frozen, module = "sark_cache._native")]
struct Alarm {
    loads: Weak<LoadRegistry>,
    /// Alive as long as the event loop holds the alarm.
    _alive: Arc<()>,
}

#[pymethods]
impl Alarm {
    fn __call__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Some(loads) = slf.get().loads.upgrade() else { return Ok(()) };
        let mut pending = Ok(true);
        wake_batched(py, || pending = loads.check_waiters(py))?;
        if pending? {
            call_later(&running_loop(py)?, CHECK_INTERVAL, slf.as_any())?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
