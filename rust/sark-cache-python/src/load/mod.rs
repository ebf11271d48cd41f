//! `get_or_load` after a miss: what one request does until it is answered.
//!
//! A coroutine of `loading.py` drives a [`Load`], because a leader awaits its loader in its own task
//! and context, with its own traceback. The core chooses the leader among the requests, and delivers
//! the outcome to the waiters ([`Flights`]).
//!
//! The core cannot know whether a leader's task still runs, nor for which other tasks a task waits.
//! That is asked here: when a request joins a load whose leader belongs to another event loop, when
//! one joins from inside a loader, and once a [`CHECK_INTERVAL`] by an [`Alarm`] that each event
//! loop has while requests of it wait.

mod event_loop;
pub mod lifetime;
mod outcome;
pub mod owner;
pub mod registry;
mod step;
mod task;
mod wake;

use crate::convert::arguments::ttl;
use crate::convert::tags::Tags;
use crate::error::Fault;
use crate::load::event_loop::running_loop;
use crate::load::lifetime::Lifetime;
use crate::load::outcome::{Outcome, SharedOutcome};
use crate::load::owner::{OnFault, Owner};
use crate::load::registry::{LoadRegistry, now, remove_superseded};
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
use sark_cache_core::poll::poll_once;
use sark_cache_core::single_flight::{
    FlightId, Joined, Leader, MAX_SUPERSEDED, WaitOutcome, Waiter,
};
use sark_cache_core::{Cache, Entry, Key};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A request to load: its key, its loader, and the parameters of the store.
pub struct LoadRequest {
    pub owner: Owner,
    pub cache: Arc<Cache<Stored>>,
    pub loads: Arc<LoadRegistry>,
    pub key: Key,
    pub lifetime: Lifetime,
    pub tags: sark_cache_core::Tags,
    pub loader: Py<PyAny>,
}

/// One request that missed, until it is answered.
#[pyclass(frozen, module = "sark_cache._native")]
pub struct Load {
    request: LoadRequest,
    /// Begun in the background, before anybody misses it.
    ahead: bool,
    state: Arc<Mutex<State>>,
    /// True if it waited before and has to join again.
    again: AtomicBool,
    /// The load that it waited for in vain last, and how often it did.
    in_vain: Mutex<Option<(FlightId, u32)>>,
}

/// The progress of a request.
#[derive(Default)]
enum State {
    /// It takes no part in any load: not yet, or no longer.
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

    /// The cache that it is loaded for.
    #[getter]
    fn cache(&self, py: Python<'_>) -> Py<PyAny> {
        self.request.owner.object.clone_ref(py)
    }

    /// True if it refreshes an entry in the background.
    #[getter]
    fn ahead(&self) -> bool {
        self.ahead
    }

    /// Returns the number of requests that wait for this one's loader.
    fn waiting(&self) -> usize {
        match &*self.lock() {
            State::Leads(leader) => leader.waiting(),
            _ => 0,
        }
    }

    /// Names the load that this request leads.
    #[getter]
    fn flight(&self) -> Option<FlightId> {
        match &*self.lock() {
            State::Leads(leader) => Some(leader.flight()),
            _ => None,
        }
    }

    /// Returns the next step, or a future to await before asking again.
    ///
    /// `within` is empty unless the request comes from a loader, or from a task that a loader made.
    fn next_step<'py>(
        &self,
        py: Python<'py>,
        within: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let counters = &self.request.cache.stats().counters;
        loop {
            let state = mem::take(&mut *self.lock());
            let (state, step) = match state {
                // Since it was called.
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

    /// Returns the outcome of another request's load: a new object; raises its exception.
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

    /// Stores what this request's loader brought, gives it to everybody who waits for it, and
    /// returns it. An error is not yet theirs: see `fail`.
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
                if let Err(refused) = fits {
                    self.report(py, refused.into())?;
                }
                let outcome = Outcome::Value(stored.clone());
                self.end(py, outcome, &tags, |stamp, all| {
                    // With those of everybody who joined they may be too many after all.
                    if fits.is_ok() && cache.weigh(key, &stored, &all).is_err() {
                        cache.stats().counters.errors.increment();
                    }
                    self.store(stored, ttl, all, stamp);
                })?;
                Ok(answer)
            }
            Err(fault) => {
                self.pause();
                remove_superseded(cache, key.clone());
                self.report(py, fault)?;
                self.end(py, Outcome::NotShared, &tags, |_, _| ())?;
                Ok(value.clone())
            }
        }
    }

    /// Counts the exception that this request's loader raised, and gives it to everybody who waits.
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

    /// Leaves what is stored to its end: a refresh brought nothing new.
    fn keep(&self, py: Python<'_>) -> PyResult<()> {
        self.pause();
        self.leave(py)
    }

    /// Removes what is stored: something newer was evaluated while the cache was off.
    fn supersede(&self) {
        let LoadRequest { cache, loads, key, .. } = &self.request;
        loads.supersede(key.as_bytes());
        remove_superseded(cache, key.clone());
    }

    /// Leaves the load: a leader hands over, and a waiter affects no other request.
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

    /// Returns a coroutine that answers a request to a policy cache that missed.
    pub fn decision(py: Python<'_>, request: LoadRequest) -> PyResult<Bound<'_, PyAny>> {
        Self::begin(py, request, interned!(py, "load_decision"))
    }

    /// Returns a coroutine that answers a request to the general cache that missed.
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
        let asker = Task::to_be_made(py)?;
        let Some(leader) = loads.flights().start_refresh(key.as_bytes(), tags, &asker) else {
            return Ok(None);
        };
        cache.stats().counters.revalidations.increment();
        Ok(Some(Self::new(request, true, State::Leads(leader))))
    }

    fn new(request: LoadRequest, ahead: bool, state: State) -> Self {
        let (state, again, in_vain) = (Arc::new(Mutex::new(state)), false.into(), Mutex::default());
        Self { request, ahead, state, again, in_vain }
    }

    /// Lets some time pass before the next refresh, if this is one.
    fn pause(&self) {
        if self.ahead {
            self.request.loads.pauses.begin(self.request.key.as_bytes(), now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn join(&self, py: Python<'_>, inside: bool) -> PyResult<State> {
        let asker = Task::current(py)?;
        let LoadRequest { cache, loads, key, tags, .. } = &self.request;
        let key = key.as_bytes();
        let in_vain = *lock(&self.in_vain);
        let overtakes = |flight| in_vain.is_some_and(|(last, times)| times > 1 || last == flight);
        let found = || poll_once(cache.find(key)).flatten();
        match loads.flights().join(key, tags, &asker, overtakes, found) {
            Joined::Found(entry) => Ok(State::Answered(Answer::Found(entry))),
            Joined::Lead(leader) => {
                if leader.superseded_another() {
                    cache.stats().counters.overdue.increment();
                }
                Ok(State::Leads(leader))
            }
            Joined::Wait(waiter) => self.may_wait(py, waiter, &asker, inside),
            Joined::TooManyLoads => Err(PyRuntimeError::new_err(format!(
                "get_or_load: {MAX_SUPERSEDED} evaluations of this decision have not ended; does \
                 its loader wait for itself?"
            ))),
        }
    }

    /// Checks a request that is about to wait: its leader must still run, and no circle may close.
    fn may_wait(
        &self,
        py: Python<'_>,
        waiter: Waiter<SharedOutcome, Task>,
        asker: &Task,
        inside: bool,
    ) -> PyResult<State> {
        let leader = waiter.leader_at_join();
        let careful = inside || self.again.load(Ordering::Relaxed);
        if (careful || !leader.is_neighbour(asker)) && !leader.goes_on(py)? {
            let depose = || self.request.loads.flights().end_abandoned(waiter.flight(), leader);
            wake_batched(py, depose)?;
        } else if careful && waiter.is_deadlocked(|task| task.waits_for(py)) {
            return Err(PyRuntimeError::new_err(
                "deadlock: this call was made inside a loader that it would have to wait for. A \
                 loader must not load its own key, and two loaders must not load each other's keys.",
            ));
        }
        Ok(State::Waits(waiter))
    }

    /// Returns the next step of a waiter: another role, or the future to await.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        mut waiter: Waiter<SharedOutcome, Task>,
    ) -> PyResult<(State, Option<Bound<'py, PyAny>>)> {
        // Woken, it turns without another future.
        if let Some(turned) = self.poll(&mut waiter, Waker::noop()) {
            return Ok((turned, None));
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
            Some(turned) => (turned, None),
            None => (State::Waits(waiter), Some(waker.wait(py)?)),
        })
    }

    fn poll(&self, waiter: &mut Waiter<SharedOutcome, Task>, waker: &Waker) -> Option<State> {
        let Poll::Ready(turn) = Pin::new(waiter).poll(&mut Context::from_waker(waker)) else {
            return None;
        };
        Some(match turn {
            WaitOutcome::Outcome(outcome) => State::Answered(Answer::Loaded(outcome)),
            WaitOutcome::Lead(leader) => State::Leads(leader),
            WaitOutcome::Retry => {
                self.again.store(true, Ordering::Relaxed);
                State::Idle
            }
            WaitOutcome::TimedOut(flight) => {
                self.again.store(true, Ordering::Relaxed);
                let mut in_vain = lock(&self.in_vain);
                *in_vain = Some((flight, in_vain.map_or(1, |(_, times)| times + 1)));
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
            // Should it be pending, it is in the cache already and moka's log of it is full.
            run_in_background(async move { cache.insert(key, value, ttl, tags, stamp).await });
        } else {
            remove_superseded(&cache, key);
        }
    }

    /// The general cache raises what it cannot store; a request to the policy cache does not fail
    /// because of it.
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
    // Outside of the lock: to hand over is to wake somebody.
    drop(left);
}

/// A coroutine that runs a loader for one request to `cache` alone, stores nothing and shares
/// nothing. It calls `failed()` if the loader raises, and `superseding()` if it brings a decision.
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
    PyRuntimeError::new_err("a load does one thing at a time, as its turn says")
}
