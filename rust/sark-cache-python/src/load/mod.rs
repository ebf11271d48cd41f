//! `get_or_load` after a miss: the steps of one request until it has an answer.
//!
//! A coroutine of `loading.py` drives a [`Load`], because a leader awaits its loader in its own
//! task and context, with its own traceback. The core chooses the leader among the requests, and
//! delivers the outcome to the waiters ([`Flights`]).
//!
//! The core cannot know whether a leader's task still runs, or which other tasks a task waits for.
//! This module checks both:
//!
//! - when a request joins a load whose leader belongs to another event loop;
//! - when a request joins from inside a loader;
//! - once per [`CHECK_INTERVAL`] while requests wait. An event loop with such requests has an
//!   [`Alarm`] for it.

mod batch;
mod event_loop;
pub mod lifetime;
mod outcome;
pub mod owner;
pub mod registry;
pub mod replacement;
mod step;
pub mod task;
mod wake;

use crate::convert::arguments::ttl;
use crate::convert::tags::Tags;
use crate::error::Fault;
use crate::load::event_loop::running_loop;
use crate::load::lifetime::Lifetime;
use crate::load::outcome::{Outcome, SharedOutcome};
use crate::load::owner::{OnFault, Owner};
use crate::load::registry::{LoadRegistry, now, remove_superseded};
use crate::load::replacement::{NO_VALUE, announce};
use crate::load::step::Step;
use crate::load::task::Task;
use crate::load::wake::{LoopDown, LoopWaker, wake_batched};
use crate::python_modules::loading;
use crate::runtime::run_in_background;
use crate::value::Stored;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};
use sark_cache_core::single_flight::{
    FlightId, Joined, Leader, MAX_SUPERSEDED, WaitOutcome, Waiter,
};
use sark_cache_core::{Cache, Entry, Hit, Key};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A request to load: its key, its loader, and the parameters for storing the result.
pub struct LoadRequest {
    pub owner: Owner,
    pub cache: Arc<Cache<Stored>>,
    pub loads: Arc<LoadRegistry>,
    pub key: Key,
    pub lifetime: Lifetime,
    pub tags: sark_cache_core::Tags,
    pub loader: Py<PyAny>,
}

/// One request that missed and has no answer yet.
#[pyclass(frozen, module = "sark_cache._native")]
pub struct Load {
    request: LoadRequest,
    /// True if it refreshes an entry in the background, before the entry expires.
    ahead: bool,
    state: Arc<Mutex<State>>,
    /// True if it waited before and has to join again.
    again: AtomicBool,
    /// The last load that it waited for until the time limit, and the number of such waits.
    timed_out: Mutex<Option<(FlightId, u32)>>,
}

/// The progress of a request.
#[derive(Default)]
enum State {
    /// It has not joined a load, or has left it.
    #[default]
    Idle,
    Leads(Leader<SharedOutcome, Task>),
    Waits(Waiter<SharedOutcome, Task>),
    Answered(Answer),
}

/// The answer to a request.
enum Answer {
    Found(Arc<Entry<Stored>>),
    Loaded(SharedOutcome),
}

#[pymethods]
impl Load {
    /// The loader of the request.
    #[getter]
    fn loader(&self, py: Python<'_>) -> Py<PyAny> {
        self.request.loader.clone_ref(py)
    }

    /// The cache of the request.
    #[getter]
    fn cache(&self, py: Python<'_>) -> Py<PyAny> {
        self.request.owner.object.clone_ref(py)
    }

    /// True if the request refreshes an entry in the background.
    #[getter]
    fn ahead(&self) -> bool {
        self.ahead
    }

    /// Returns the number of requests that wait for the loader of this request.
    fn waiting(&self) -> usize {
        match &*self.lock() {
            State::Leads(leader) => leader.waiting(),
            _ => 0,
        }
    }

    /// The number of the load that this request leads.
    #[getter]
    fn flight(&self) -> Option<FlightId> {
        match &*self.lock() {
            State::Leads(leader) => Some(leader.flight()),
            _ => None,
        }
    }

    /// True if the request has not joined a load: another request loads its decision, or the cache
    /// is off.
    #[getter]
    fn idle(&self) -> bool {
        matches!(*self.lock(), State::Idle)
    }

    /// Returns the next step, or a future. Await the future, then call this again.
    ///
    /// `within` is empty unless a loader makes this request, or created its task.
    fn next_step<'py>(
        &self,
        py: Python<'py>,
        within: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let counters = &self.request.cache.stats().counters;
        loop {
            let state = mem::take(&mut *self.lock());
            let (state, step) = match state {
                // The cache was disabled or closed after this request was made.
                State::Idle if !self.request.owner.switch.serves() => (state, Some(Step::Off)),
                State::Idle => (self.join(py, !within.is_empty())?, None),
                State::Waits(waiter) => match self.wait(py, waiter)? {
                    (state, Some(future)) => {
                        *self.lock() = state;
                        return Ok(future);
                    }
                    (state, None) => (state, None),
                },
                State::Leads(leader) => {
                    counters.loads.increment();
                    (State::Leads(leader), Some(Step::Lead))
                }
                State::Answered(Answer::Loaded(outcome))
                    if matches!(*outcome, Outcome::NotShared) =>
                {
                    counters.loads.increment();
                    (State::Idle, Some(Step::Alone))
                }
                State::Answered(answer) => {
                    counters.coalesced.increment();
                    (State::Answered(answer), Some(Step::Answered))
                }
            };
            *self.lock() = state;
            if let Some(step) = step {
                return step.to_python(py);
            }
        }
    }

    /// Returns the result of another request's load as a new object, or raises its exception.
    fn answer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let State::Answered(answer) = mem::take(&mut *self.lock()) else {
            return Err(out_of_turn());
        };
        match answer {
            Answer::Found(entry) => entry.value().to_python(py),
            Answer::Loaded(outcome) => match &*outcome {
                Outcome::Value(value) => value.to_python(py),
                Outcome::Raised(error, traceback) => {
                    let error = error.clone_ref(py);
                    error.set_traceback(py, traceback.as_ref().map(|it| it.bind(py).clone()));
                    Err(error)
                }
                Outcome::NotShared => Err(out_of_turn()),
            },
        }
    }

    /// Stores the loader's result, delivers it to the waiters, and returns it.
    ///
    /// The general cache raises an exception if it cannot store the result. Nothing is delivered
    /// then: pass the exception to `fail`.
    fn finish<'py>(
        &self,
        py: Python<'py>,
        value: &Bound<'py, PyAny>,
        ttl_seconds: Option<&Bound<'py, PyAny>>,
        tags: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let LoadRequest { cache, key, .. } = &self.request;
        let ttl = self.request.lifetime.choose(ttl(ttl_seconds)?);
        let late = Tags::of_decision(tags)?;
        let tags = self.request.tags.union(&cache.log().tags(&late.names));
        match late.all().and_then(|()| Stored::from_python(value)) {
            Ok(stored) => {
                if self.ahead {
                    self.request.loads.pauses.end(key.as_bytes());
                }
                let answer = stored.to_python(py)?;
                let fits = cache.weigh(key, &stored, &tags);
                self.announce(py, if fits.is_ok() { stored.as_ref() } else { NO_VALUE });
                if let Err(refused) = fits {
                    self.report(py, refused.into())?;
                }
                let outcome = Outcome::Value(stored.clone());
                self.end(py, outcome, &tags, |stamp, all| {
                    // Together with the tags of the requests that joined, the tags may be too many.
                    if fits.is_ok() && cache.weigh(key, &stored, &all).is_err() {
                        cache.stats().counters.errors.increment();
                    }
                    self.store(stored, ttl, all, stamp);
                })?;
                Ok(answer)
            }
            Err(fault) => {
                self.pause();
                self.announce(py, NO_VALUE);
                remove_superseded(cache, key.clone());
                self.report(py, fault)?;
                self.end(py, Outcome::NotShared, &tags, |_, _| ())?;
                Ok(value.clone())
            }
        }
    }

    /// Counts the loader's exception, and delivers it to the waiters.
    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) -> PyResult<()> {
        let error = PyErr::from_value(error);
        let traceback = error.traceback(py).map(Bound::unbind);
        let counters = &self.request.cache.stats().counters;
        let failures = if self.ahead { &counters.errors } else { &counters.load_errors };
        failures.increment();
        self.pause();
        if self.flight().is_none() {
            return Ok(());
        }
        self.end(py, Outcome::Raised(error, traceback), &self.request.tags, |_, _| ())
    }

    /// Keeps the entry until it expires, because the refresh returned no new decision.
    fn keep(&self, py: Python<'_>) -> PyResult<()> {
        self.pause();
        self.leave(py)
    }

    /// Removes the entry: a newer decision was evaluated while the cache was disabled.
    fn supersede(&self) {
        let LoadRequest { cache, loads, key, .. } = &self.request;
        loads.supersede(key.as_bytes());
        remove_superseded(cache, key.clone());
    }

    /// Leaves the load. If this request is its leader, the first waiter becomes the leader.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        wake_batched(py, || leave(&self.state))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.request.owner.object)?;
        visit.call(&self.request.loader)
    }
}

impl Load {
    /// Imports the Python code that a load needs.
    pub fn import(py: Python<'_>) -> PyResult<()> {
        loading(py)?;
        Step::Lead.to_python(py).map(drop)
    }

    /// Returns a coroutine that answers a request that missed in a policy cache.
    pub fn decision(py: Python<'_>, request: LoadRequest) -> PyResult<Bound<'_, PyAny>> {
        Self::begin(py, request, interned!(py, "load_decision"))
    }

    /// Returns a coroutine that answers a request that missed in the general cache.
    pub fn value(py: Python<'_>, request: LoadRequest) -> PyResult<Bound<'_, PyAny>> {
        Self::begin(py, request, interned!(py, "load_value"))
    }

    fn begin<'py>(
        py: Python<'py>,
        request: LoadRequest,
        coroutine: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let load = Self::new(request, false, State::Idle);
        loading(py)?.call_method1(coroutine, (load,))
    }

    /// Starts a refresh of an entry before it expires. Returns `None` if a load of its key is
    /// running.
    pub fn refresh(py: Python<'_>, request: LoadRequest) -> PyResult<Option<Self>> {
        let LoadRequest { cache, loads, key, tags, .. } = &request;
        let caller = Task::to_be_created(py)?;
        let Some(leader) = loads.flights().start_refresh(key.as_bytes(), tags, &caller) else {
            return Ok(None);
        };
        cache.stats().counters.revalidations.increment();
        Ok(Some(Self::new(request, true, State::Leads(leader))))
    }

    fn new(request: LoadRequest, ahead: bool, state: State) -> Self {
        let state = Arc::new(Mutex::new(state));
        Self { request, ahead, state, again: false.into(), timed_out: Mutex::default() }
    }

    /// Delays the next refresh of the entry, if this request is a refresh.
    fn pause(&self) {
        if self.ahead {
            self.request.loads.pauses.begin(self.request.key.as_bytes(), now());
        }
    }

    /// Shows other processes the decision that this refresh replaces, if it is another one.
    fn announce(&self, py: Python<'_>, value: &[u8]) {
        let LoadRequest { owner, cache, key, .. } = &self.request;
        if self.ahead {
            announce(owner.object.bind(py), cache, key, value);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn join(&self, py: Python<'_>, inside: bool) -> PyResult<State> {
        let caller = Task::current(py)?;
        let timed_out = *lock(&self.timed_out);
        let supersedes =
            |flight| timed_out.is_some_and(|(last, times)| times > 1 || last == flight);
        match self.join_as(&caller, supersedes) {
            Joined::Found(entry) => Ok(State::Answered(Answer::Found(entry))),
            Joined::Lead(leader) => {
                if leader.superseded_another() {
                    self.request.cache.stats().counters.overdue.increment();
                }
                Ok(State::Leads(leader))
            }
            Joined::Wait(waiter) => self.check_wait(py, waiter, &caller, inside),
            Joined::TooManyLoads => Err(PyRuntimeError::new_err(format!(
                "get_or_load: {MAX_SUPERSEDED} evaluations of this decision have not ended; does \
                 its loader wait for itself?"
            ))),
        }
    }

    fn join_as(
        &self,
        caller: &Task,
        supersedes: impl FnOnce(FlightId) -> bool,
    ) -> Joined<SharedOutcome, Task, Arc<Entry<Stored>>> {
        let LoadRequest { cache, loads, key, tags, .. } = &self.request;
        let key = key.as_bytes();
        let found = || cache.look_up(key).map(Hit::into_arc);
        loads.flights().join(key, tags, caller, supersedes, found)
    }

    /// Checks a request that is about to wait: its leader must still run, and the wait must not
    /// close a circle of tasks that wait for each other.
    fn check_wait(
        &self,
        py: Python<'_>,
        waiter: Waiter<SharedOutcome, Task>,
        caller: &Task,
        inside: bool,
    ) -> PyResult<State> {
        let leader = waiter.leader_at_join();
        let may_deadlock = inside || self.again.load(Ordering::Relaxed);
        if (may_deadlock || !leader.is_in_loop_of(caller)) && !leader.can_run(py)? {
            let end = || self.request.loads.flights().end_abandoned(waiter.flight(), leader);
            wake_batched(py, end)?;
        } else if may_deadlock && waiter.is_deadlocked(|task| task.waits_for(py)) {
            return Err(PyRuntimeError::new_err(
                "deadlock: this call was made inside a loader that it would have to wait for. A \
                 loader must not load its own key, and two loaders must not load each other's keys.",
            ));
        }
        Ok(State::Waits(waiter))
    }

    /// Returns the next state of a waiter, and the future to await if it still waits.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        mut waiter: Waiter<SharedOutcome, Task>,
    ) -> PyResult<(State, Option<Bound<'py, PyAny>>)> {
        // A waiter that was woken needs no other future.
        if let Some(ended) = self.poll(&mut waiter, Waker::noop()) {
            return Ok((ended, None));
        }
        let state = Arc::downgrade(&self.state);
        let on_loop_down = move |why| match (state.upgrade(), why) {
            (Some(state), LoopDown::Closed) => leave(&state),
            (Some(state), LoopDown::Stopped) => {
                if let State::Waits(waiter) = &*lock(&state) {
                    waiter.decline();
                }
            }
            (None, _) => {}
        };
        let event_loop = running_loop(py)?;
        self.request.loads.watch(&event_loop)?;
        let waker = LoopWaker::new(event_loop, on_loop_down);
        Ok(match self.poll(&mut waiter, &Waker::from(Arc::clone(&waker))) {
            Some(ended) => (ended, None),
            None => (State::Waits(waiter), Some(waker.wait(py)?)),
        })
    }

    fn poll(&self, waiter: &mut Waiter<SharedOutcome, Task>, waker: &Waker) -> Option<State> {
        let Poll::Ready(outcome) = Pin::new(waiter).poll(&mut Context::from_waker(waker)) else {
            return None;
        };
        Some(match outcome {
            WaitOutcome::Outcome(outcome) => State::Answered(Answer::Loaded(outcome)),
            WaitOutcome::Lead(leader) => State::Leads(leader),
            WaitOutcome::Retry => {
                self.again.store(true, Ordering::Relaxed);
                State::Idle
            }
            WaitOutcome::TimedOut(flight) => {
                self.again.store(true, Ordering::Relaxed);
                let mut timed_out = lock(&self.timed_out);
                *timed_out = Some((flight, timed_out.map_or(1, |(_, times)| times + 1)));
                State::Idle
            }
        })
    }

    /// Stores the value unless it was revoked during the load. If the cache was disabled or closed,
    /// removes the stored entry instead, because the value supersedes it.
    fn store(
        &self,
        value: Stored,
        ttl: Duration,
        tags: sark_cache_core::Tags,
        stamp: sark_cache_core::Stamp,
    ) {
        let (cache, key) = (Arc::clone(&self.request.cache), self.request.key.clone());
        if self.request.owner.switch.serves() {
            // If it is pending, the entry is stored already, but moka's log of writes is full.
            run_in_background(async move { cache.insert(key, value, ttl, tags, stamp).await });
        } else {
            remove_superseded(&cache, key);
        }
    }

    /// Raises the fault of a decision that cannot be stored, or reports it. The general cache
    /// raises it. A request to a policy cache does not fail because of it.
    fn report(&self, py: Python<'_>, fault: Fault) -> PyResult<()> {
        let operation = if self.ahead { "refresh" } else { "get_or_load" };
        let Owner { object, on_fault, .. } = &self.request.owner;
        match on_fault {
            OnFault::Raise => Err(fault.into()),
            OnFault::Report(report) => {
                report(object.bind(py), self.request.cache.stats(), operation, fault)
            }
        }
    }

    fn end(
        &self,
        py: Python<'_>,
        outcome: Outcome,
        tags: &sark_cache_core::Tags,
        store: impl FnOnce(sark_cache_core::Stamp, sark_cache_core::Tags),
    ) -> PyResult<()> {
        let State::Leads(leader) = mem::take(&mut *self.lock()) else { return Err(out_of_turn()) };
        wake_batched(py, || leader.finish(&Arc::new(outcome), tags, store))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leave(state: &Mutex<State>) {
    let left = mem::take(&mut *lock(state));
    // Dropped outside of the lock: a leader that is dropped wakes a waiter.
    drop(left);
}

/// Returns a coroutine that runs a loader for one request to `cache` alone, stores nothing and
/// shares nothing. It calls `failed()` if the loader raises, and `superseding()` if it returns a
/// decision.
pub fn evaluate<'py>(
    cache: &Bound<'py, PyAny>,
    loader: &Bound<'py, PyAny>,
    failed: Option<Bound<'py, PyAny>>,
    superseding: Option<Bound<'py, PyCFunction>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = loader.py();
    loading(py)?.call_method1(interned!(py, "evaluate"), (loader, failed, cache, superseding))
}

#[cold]
fn out_of_turn() -> PyErr {
    PyRuntimeError::new_err("a load must be driven by the steps that next_step() returns")
}
