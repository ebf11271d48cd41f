//! `get_or_load` after a miss: what one request does until it is answered.
//!
//! A [`Load`] is driven by a coroutine of `sark_cache.loading`, because the one who leads awaits
//! its loader in its own task and context, with its own traceback. Which of those who ask leads,
//! and what the others are told, is the core's business ([`Flights`]).

use crate::arguments::{Tags, ttl};
use crate::cache::AsyncCache;
use crate::error::Fault;
use crate::policy::PolicyStore;
use crate::runtime::{complete, generation};
use crate::store::Store;
use crate::value::Stored;
use crate::wake::{Sleeper, together};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyModule, PyTraceback};
use pyo3::{PyTraverseError, PyVisit};
use sark_cache_core::load::{FlightId, Joined, Leader, Turn, Waiter};
use sark_cache_core::ready::{Polled, poll_once, poll_or_keep};
use sark_cache_core::{Cache, Entry, Flights, Key, Refused};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What a load came to, for everybody who waited for it.
enum Outcome {
    Value(Stored),
    /// It cannot be copied, so everybody evaluates.
    NotShared,
    /// With the traceback it had: each one who raises it adds to it.
    Raised(PyErr, Option<Py<PyTraceback>>),
}

type Shared = Arc<Outcome>;

/// The loads under way for one cache.
pub struct Loads {
    flights: Arc<Flights<Shared>>,
    generation: AtomicU64,
}

impl Loads {
    pub fn new(cache: &Cache<Stored>) -> Arc<Self> {
        let flights = Arc::new(Flights::new(Arc::clone(cache.log())));
        Arc::new(Self { flights, generation: AtomicU64::new(generation()) })
    }

    fn flights(&self) -> &Arc<Flights<Shared>> {
        // The tasks that led before a fork do not go on in the child.
        if self.generation.swap(generation(), Ordering::AcqRel) != generation() {
            self.flights.forget();
        }
        &self.flights
    }
}

/// The cache that a load is for, as Python knows it.
pub enum Owner {
    Policy(Py<PolicyStore>),
    General(Py<AsyncCache>),
}

impl Owner {
    /// Whether what was loaded is stored: not once the cache was switched off or closed.
    fn stores(&self) -> bool {
        match self {
            Self::Policy(cache) => cache.get().store().is_ok_and(Store::serves),
            Self::General(_) => true,
        }
    }

    /// The general cache raises what it cannot store; a request to the policy cache does not fail
    /// because of it.
    fn report(&self, py: Python<'_>, fault: Fault) -> PyResult<()> {
        match self {
            Self::Policy(cache) => PolicyStore::report(cache.bind(py), "get_or_load", fault),
            Self::General(_) => Err(fault.into()),
        }
    }
}

/// What is to be loaded, how, and how it is stored.
pub struct Wanted {
    pub owner: Owner,
    pub cache: Arc<Cache<Stored>>,
    pub loads: Arc<Loads>,
    pub key: Key,
    pub ttl: Duration,
    pub tags: sark_cache_core::Tags,
    pub loader: Py<PyAny>,
}

/// One request that missed, until it is answered.
#[pyclass(frozen, module = "sark_cache._native")]
pub struct Load {
    wanted: Wanted,
    /// Begun in the background, before anybody misses it.
    ahead: bool,
    state: Arc<Mutex<State>>,
}

/// Where a request stands.
#[derive(Default)]
enum State {
    /// It takes no part in any load: not yet, or no longer.
    #[default]
    Apart,
    Leads(Leader<Shared>),
    Waits(Waiter<Shared>),
    Answered(Answer),
}

/// What a request is answered with.
enum Answer {
    Found(Arc<Entry<Stored>>),
    Loaded(Shared),
}

#[pymethods]
impl Load {
    /// What evaluates the request.
    #[getter]
    fn loader(&self, py: Python<'_>) -> Py<PyAny> {
        self.wanted.loader.clone_ref(py)
    }

    /// Names the load that this request leads.
    #[getter]
    fn flight(&self) -> Option<FlightId> {
        match &*self.lock() {
            State::Leads(leader) => Some(leader.flight()),
            _ => None,
        }
    }

    /// The next step: "answered", "lead", "alone", or an asyncio future to be awaited before it.
    #[expect(clippy::needless_pass_by_value, reason = "made from a tuple")]
    fn turn<'py>(&self, py: Python<'py>, within: Vec<FlightId>) -> PyResult<Bound<'py, PyAny>> {
        let counters = &self.wanted.cache.stats().counters;
        loop {
            let state = mem::take(&mut *self.lock());
            let (state, step) = match state {
                State::Apart => (self.join(&within)?, None),
                State::Waits(waiter) => self.wait(py, waiter)?,
                State::Leads(leader) => {
                    counters.loads.increment();
                    (State::Leads(leader), Some(name!(py, "lead").clone().into_any()))
                }
                State::Answered(Answer::Loaded(outcome))
                    if matches!(*outcome, Outcome::NotShared) =>
                {
                    counters.loads.increment();
                    (State::Apart, Some(name!(py, "alone").clone().into_any()))
                }
                State::Answered(answer) => {
                    counters.coalesced.increment();
                    (State::Answered(answer), Some(name!(py, "answered").clone().into_any()))
                }
            };
            *self.lock() = state;
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    /// What somebody else's load came to: a new object, or the exception that it raised.
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
        let stamp = match &*self.lock() {
            State::Leads(leader) => leader.stamp(),
            _ => return Err(out_of_turn()),
        };
        let ttl = ttl(ttl_seconds)?.unwrap_or(self.wanted.ttl);
        let late = Tags::new(tags)?;
        let tags = self.wanted.tags.with(&self.wanted.cache.log().tags(&late.names));
        let (outcome, answer) = match late.all().and_then(|()| Stored::from_python(value)) {
            Ok(stored) => {
                let answer = stored.to_python(py)?;
                self.store(py, stored.clone(), ttl, tags.clone(), stamp)?;
                (Outcome::Value(stored), answer)
            }
            Err(fault) => {
                let (cache, key) = (Arc::clone(&self.wanted.cache), self.wanted.key.clone());
                complete(async move { cache.discard(key.as_bytes()).await });
                self.wanted.owner.report(py, fault)?;
                (Outcome::NotShared, value.clone())
            }
        };
        self.end(outcome, &tags);
        Ok(answer)
    }

    /// Gives everybody who waits the exception that this request's loader raised.
    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) {
        let error = PyErr::from_value(error);
        let traceback = error.traceback(py).map(Bound::unbind);
        let counters = &self.wanted.cache.stats().counters;
        let failures = if self.ahead { &counters.errors } else { &counters.load_errors };
        failures.increment();
        self.end(Outcome::Raised(error, traceback), &self.wanted.tags);
    }

    /// Takes no further part: one who leads hands over, one who waits disturbs nobody.
    fn leave(&self) {
        together(|| leave(&self.state));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.wanted.owner {
            Owner::Policy(cache) => visit.call(cache)?,
            Owner::General(cache) => visit.call(cache)?,
        }
        visit.call(&self.wanted.loader)
    }
}

impl Load {
    /// A coroutine that answers a request that missed.
    pub fn begin(py: Python<'_>, wanted: Wanted) -> PyResult<Bound<'_, PyAny>> {
        let answers = match wanted.owner {
            Owner::Policy(_) => name!(py, "load_decision"),
            Owner::General(_) => name!(py, "load_value"),
        };
        let load = Self { wanted, ahead: false, state: Arc::default() };
        loading(py)?.call_method1(answers, (load,))
    }

    /// The lead of a load for what is stored, so that its successor is there in time; `None` if a
    /// load is under way.
    pub fn refresh(wanted: Wanted) -> Option<Self> {
        let Wanted { cache, loads, key, tags, .. } = &wanted;
        let joined = loads.flights().join(key.as_bytes(), tags, &[], || None::<()>);
        let Joined::Lead(leader) = joined else { return None };
        cache.stats().counters.revalidations.increment();
        Some(Self { wanted, ahead: true, state: Arc::new(Mutex::new(State::Leads(leader))) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn join(&self, within: &[FlightId]) -> PyResult<State> {
        let key = self.wanted.key.as_bytes();
        let found = || poll_once(self.wanted.cache.find(key)).flatten();
        match self.wanted.loads.flights().join(key, &self.wanted.tags, within, found) {
            Joined::Found(entry) => Ok(State::Answered(Answer::Found(entry))),
            Joined::Lead(leader) => Ok(State::Leads(leader)),
            Joined::Wait(waiter) => Ok(State::Waits(waiter)),
            Joined::Circular => Err(PyRuntimeError::new_err(
                "get_or_load: this request comes from a loader that it would have to wait for; \
                 a loader must not ask for its own key, nor two for each other's",
            )),
        }
    }

    /// One who waits: turned to something else, or with the future to be awaited.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        mut waiter: Waiter<Shared>,
    ) -> PyResult<(State, Option<Bound<'py, PyAny>>)> {
        // Woken, it turns without another future.
        if let Some(turned) = poll(&mut waiter, Waker::noop()) {
            return Ok((turned, None));
        }
        let state = Arc::downgrade(&self.state);
        let lost = move || {
            if let Some(state) = state.upgrade() {
                leave(&state);
            }
        };
        let sleeper = Sleeper::new(py, lost)?;
        Ok(match poll(&mut waiter, &Waker::from(Arc::clone(&sleeper))) {
            Some(turned) => (turned, None),
            None => (State::Waits(waiter), Some(sleeper.future(py))),
        })
    }

    /// Stores it unless it was revoked meanwhile; where it cannot be stored, says so.
    fn store(
        &self,
        py: Python<'_>,
        value: Stored,
        ttl: Duration,
        tags: sark_cache_core::Tags,
        stamp: sark_cache_core::Stamp,
    ) -> PyResult<()> {
        if !self.wanted.owner.stores() {
            return Ok(());
        }
        let (cache, key) = (Arc::clone(&self.wanted.cache), self.wanted.key.clone());
        let insert = async move { cache.insert(key, value, ttl, tags, stamp).await };
        match poll_or_keep(insert) {
            Polled::Ready(Err(refused @ Refused::TooLarge { .. })) => {
                self.wanted.owner.report(py, refused.into())
            }
            Polled::Ready(_) => Ok(()),
            // In the cache already; moka's log of it is full.
            Polled::Pending(insert) => {
                complete(insert);
                Ok(())
            }
        }
    }

    fn end(&self, outcome: Outcome, tags: &sark_cache_core::Tags) {
        if let State::Leads(leader) = mem::take(&mut *self.lock()) {
            together(|| leader.finish(&Arc::new(outcome), tags));
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leave(state: &Mutex<State>) {
    let left = mem::take(&mut *lock(state));
    // Outside of the lock: to hand over is to wake somebody.
    drop(left);
}

/// A coroutine that runs a loader for one request alone, stores nothing and shares nothing.
pub fn evaluate<'py>(loader: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    loading(loader.py())?.call_method1(name!(loader.py(), "evaluate"), (loader,))
}

/// The Python half of this.
pub fn loading(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static LOADING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let import = || py.import("sark_cache.loading").map(Bound::unbind);
    Ok(LOADING.get_or_try_init(py, import)?.bind(py))
}

fn poll(waiter: &mut Waiter<Shared>, waker: &Waker) -> Option<State> {
    match Pin::new(waiter).poll(&mut Context::from_waker(waker)) {
        Poll::Pending => None,
        Poll::Ready(Turn::Outcome(outcome)) => Some(State::Answered(Answer::Loaded(outcome))),
        Poll::Ready(Turn::Lead(leader)) => Some(State::Leads(leader)),
        Poll::Ready(Turn::Retry) => Some(State::Apart),
    }
}

#[cold]
fn out_of_turn() -> PyErr {
    PyRuntimeError::new_err("a load does one thing at a time, as its turn says")
}
