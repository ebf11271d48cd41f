//! `get_or_load` after a miss: what one request does until it is answered.
//!
//! A [`Load`] is driven by a coroutine of `sark_cache.loading`, because the one who leads awaits
//! its loader in its own task and context, with its own traceback. Which of those who ask leads,
//! and what the others are told, is the core's business ([`Flights`]).
//!
//! The core cannot know whether a leader's task still runs, nor for which other tasks a task waits.
//! That is asked here: when a request joins a load whose leader belongs to another event loop, when
//! one joins from inside a loader, and once a [`MOMENT`] by an [`Alarm`] that each event loop has
//! while requests of it wait.

pub mod task;
pub mod wake;

use crate::async_cache::AsyncCache;
use crate::convert::arguments::{Tags, ttl};
use crate::error::Fault;
use crate::load::task::{Task, running_loop};
use crate::load::wake::{CutOff, Sleeper, call_later, together};
use crate::policy::PolicyStore;
use crate::policy::store::Store;
use crate::runtime::{complete, generation};
use crate::value::Stored;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyModule, PyTraceback, PyTuple};
use pyo3::{PyTraverseError, PyVisit};
use sark_cache_core::clock::nanos;
use sark_cache_core::load::{
    FlightId, Joined, Leader, MAX_OVERTAKEN, MOMENT, Turn, WaitGraph, Waiter,
};
use sark_cache_core::pauses::Pauses;
use sark_cache_core::ready::poll_once;
use sark_cache_core::{Cache, Entry, Flights, Key};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What a load came to, for everybody who waited for it.
enum Outcome {
    Value(Stored),
    /// It cannot be copied, so everybody evaluates.
    NotShared,
    /// With the traceback it had: each one who raises it adds to it.
    Raised(PyErr, Option<Py<PyTraceback>>),
}

type Shared = Arc<Outcome>;

/// Who waits for whom, in all caches of this process.
static GRAPH: LazyLock<Arc<WaitGraph<Task>>> = LazyLock::new(Arc::default);

/// The most slow loads that are looked at in one go.
const MAX_LOOKED_AT: usize = 256;

/// The loads of one cache that are running.
pub struct Loads {
    flights: Arc<Flights<Shared, Task>>,
    generation: AtomicU64,
    /// The event loops that have an [`Alarm`], by their addresses, and whether it is alive.
    watched: Mutex<Vec<(usize, Weak<()>)>>,
    /// Between refreshes that bring nothing.
    pauses: Pauses,
}

impl Loads {
    pub fn new(cache: &Cache<Stored>) -> Arc<Self> {
        let flights = Arc::new(Flights::new(Arc::clone(cache.log()), Arc::clone(&GRAPH)));
        let (generation, watched) = (AtomicU64::new(generation()), Mutex::default());
        Arc::new(Self { flights, generation, watched, pauses: Pauses::default() })
    }

    /// Keeps what a load brings from overwriting what is about to be stored.
    pub fn supersede(&self, key: &[u8]) {
        self.flights().supersede(key);
    }

    /// Whether what is stored is being refreshed, or has to wait for its next refresh.
    pub fn refreshes(&self, key: &[u8]) -> Refreshing {
        if self.pauses.has(key, now()) {
            return Refreshing::Pauses;
        }
        let led = self.flights().led_ahead(key);
        led.map_or(Refreshing::No, |(flight, leader)| Refreshing::Led(flight, leader))
    }

    /// Whether there is nothing to begin. A refresh whose task does not go on is given up: nobody
    /// waits for it.
    pub fn holds(&self, py: Python<'_>, refreshing: Refreshing) -> PyResult<bool> {
        match refreshing {
            Refreshing::No => Ok(false),
            Refreshing::Pauses => Ok(true),
            Refreshing::Led(_, leader) if leader.goes_on(py)? => Ok(true),
            Refreshing::Led(flight, leader) => {
                self.flights().depose(flight, &leader);
                Ok(false)
            }
        }
    }

    fn flights(&self) -> &Arc<Flights<Shared, Task>> {
        // The tasks that led before a fork do not go on in the child.
        let now = generation();
        if self.generation.load(Ordering::Acquire) != now
            && self.generation.swap(now, Ordering::AcqRel) != now
        {
            self.flights.forget();
            lock(&self.watched).clear();
        }
        &self.flights
    }

    /// Sees to it that the running event loop looks after those who wait.
    fn watch(self: &Arc<Self>, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
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
        call_later(event_loop, MOMENT, Bound::new(event_loop.py(), alarm)?.as_any())
    }

    /// Looks after those who wait; whether anybody does.
    fn look_after(&self, py: Python<'_>) -> PyResult<bool> {
        let flights = self.flights();
        let look = flights.look_after(now());
        for (flight, leader) in look.slow.into_iter().take(MAX_LOOKED_AT) {
            if !leader.goes_on(py)? {
                flights.depose(flight, &leader);
            } else if GRAPH.is_circular(&leader, |task| task.waits_for(py)) {
                flights.reconsider(flight);
            }
        }
        Ok(look.anybody)
    }
}

/// What is known of the refresh of what is stored.
pub enum Refreshing {
    No,
    /// The last one brought nothing.
    Pauses,
    /// It is running, led by a task.
    Led(FlightId, Task),
}

/// Nanoseconds of a monotonic clock.
fn now() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    nanos(ORIGIN.elapsed())
}

/// What an event loop calls once a [`MOMENT`] while requests wait.
#[pyclass(frozen, module = "sark_cache._native")]
struct Alarm {
    loads: Weak<Loads>,
    /// As long as the event loop has the alarm.
    _alive: Arc<()>,
}

#[pymethods]
impl Alarm {
    fn __call__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Some(loads) = slf.get().loads.upgrade() else { return Ok(()) };
        let mut anybody = Ok(true);
        together(py, || anybody = loads.look_after(py))?;
        if anybody? {
            call_later(&running_loop(py)?, MOMENT, slf.as_any())?;
        }
        Ok(())
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
}

/// What is to be loaded, how, and how it is stored.
pub struct Wanted {
    pub owner: Owner,
    pub cache: Arc<Cache<Stored>>,
    pub loads: Arc<Loads>,
    pub key: Key,
    pub ttl: Duration,
    /// It lives no longer than this, whatever its loader says.
    pub longest: Duration,
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
    /// Whether it waited before, and was asked to join again.
    again: AtomicBool,
    /// The load that it waited for in vain last, and how often it did.
    in_vain: Mutex<Option<(FlightId, u32)>>,
}

/// Where a request stands.
#[derive(Default)]
enum State {
    /// It takes no part in any load: not yet, or no longer.
    #[default]
    Apart,
    Leads(Leader<Shared, Task>),
    Waits(Waiter<Shared, Task>),
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

    /// The cache that it is loaded for.
    #[getter]
    fn cache(&self, py: Python<'_>) -> Py<PyAny> {
        match &self.wanted.owner {
            Owner::Policy(cache) => cache.clone_ref(py).into_any(),
            Owner::General(cache) => cache.clone_ref(py).into_any(),
        }
    }

    /// Whether it refreshes what is stored, in the background.
    #[getter]
    fn ahead(&self) -> bool {
        self.ahead
    }

    /// How many other requests wait for what this one's loader brings.
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

    /// The next step: "answered", "lead", "alone", "off", or a future to be awaited before it.
    /// `within` is empty unless the request comes from a loader, or from a task that one made.
    fn turn<'py>(
        &self,
        py: Python<'py>,
        within: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let counters = &self.wanted.cache.stats().counters;
        loop {
            let state = mem::take(&mut *self.lock());
            let (state, step) = match state {
                // Since it was called.
                State::Apart if !self.wanted.owner.stores() => (state, Some(name!(py, "off"))),
                State::Apart => (self.join(py, !within.is_empty())?, None),
                State::Waits(waiter) => match self.wait(py, waiter)? {
                    (state, Some(future)) => {
                        *self.lock() = state;
                        return Ok(future);
                    }
                    (state, None) => (state, None),
                },
                State::Leads(leader) => {
                    counters.loads.increment();
                    (State::Leads(leader), Some(name!(py, "lead")))
                }
                State::Answered(Answer::Loaded(outcome))
                    if matches!(*outcome, Outcome::NotShared) =>
                {
                    counters.loads.increment();
                    (State::Apart, Some(name!(py, "alone")))
                }
                State::Answered(answer) => {
                    counters.coalesced.increment();
                    (State::Answered(answer), Some(name!(py, "answered")))
                }
            };
            *self.lock() = state;
            if let Some(step) = step {
                return Ok(step.clone().into_any());
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
        let Wanted { cache, key, .. } = &self.wanted;
        let ttl = ttl(ttl_seconds)?.unwrap_or(self.wanted.ttl).min(self.wanted.longest);
        let late = Tags::of_decision(tags)?;
        let tags = self.wanted.tags.with(&cache.log().tags(&late.names));
        match late.all().and_then(|()| Stored::from_python(value)) {
            Ok(stored) => {
                if self.ahead {
                    self.wanted.loads.pauses.end(key.as_bytes());
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
                let (discarding, key) = (Arc::clone(cache), key.clone());
                complete(async move { discarding.discard(key.as_bytes()).await });
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
        let counters = &self.wanted.cache.stats().counters;
        let failures = if self.ahead { &counters.errors } else { &counters.load_errors };
        failures.increment();
        self.pause();
        if self.flight().is_none() {
            return Ok(());
        }
        self.end(py, Outcome::Raised(error, traceback), &self.wanted.tags, |_, _| ())
    }

    /// Leaves what is stored to its end: a refresh brought nothing new.
    fn keep(&self, py: Python<'_>) -> PyResult<()> {
        self.pause();
        self.leave(py)
    }

    /// Takes no further part: one who leads hands over, one who waits disturbs nobody.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        together(py, || leave(&self.state))
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
        let load = Self::new(wanted, false, State::Apart);
        loading(py)?.call_method1(answers, (load,))
    }

    /// The lead of a load for what is stored, so that its successor is there in time; `None` if a
    /// load is under way.
    pub fn refresh(py: Python<'_>, wanted: Wanted) -> PyResult<Option<Self>> {
        let Wanted { cache, loads, key, tags, .. } = &wanted;
        let asker = Task::to_be_made(py)?;
        let Some(leader) = loads.flights().lead_ahead(key.as_bytes(), tags, &asker) else {
            return Ok(None);
        };
        cache.stats().counters.revalidations.increment();
        Ok(Some(Self::new(wanted, true, State::Leads(leader))))
    }

    fn new(wanted: Wanted, ahead: bool, state: State) -> Self {
        let (state, again, in_vain) = (Arc::new(Mutex::new(state)), false.into(), Mutex::default());
        Self { wanted, ahead, state, again, in_vain }
    }

    /// Lets some time pass before the next refresh, if this is one.
    fn pause(&self) {
        if self.ahead {
            self.wanted.loads.pauses.begin(self.wanted.key.as_bytes(), now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn join(&self, py: Python<'_>, inside: bool) -> PyResult<State> {
        let asker = Task::current(py)?;
        let Wanted { cache, loads, key, tags, .. } = &self.wanted;
        let key = key.as_bytes();
        let in_vain = *lock(&self.in_vain);
        let overtakes = |flight| in_vain.is_some_and(|(last, times)| times > 1 || last == flight);
        let found = || poll_once(cache.find(key)).flatten();
        match loads.flights().join(key, tags, &asker, overtakes, found) {
            Joined::Found(entry) => Ok(State::Answered(Answer::Found(entry))),
            Joined::Lead(leader) => {
                if leader.overtook() {
                    cache.stats().counters.overdue.increment();
                }
                Ok(State::Leads(leader))
            }
            Joined::Wait(waiter) => self.may_wait(py, waiter, &asker, inside),
            Joined::Crowded => Err(PyRuntimeError::new_err(format!(
                "get_or_load: {MAX_OVERTAKEN} evaluations of this decision have not ended; does \
                 its loader wait for itself?"
            ))),
        }
    }

    /// One who is about to wait: not for a leader that does not go on, nor in a circle.
    fn may_wait(
        &self,
        py: Python<'_>,
        waiter: Waiter<Shared, Task>,
        asker: &Task,
        inside: bool,
    ) -> PyResult<State> {
        let leader = waiter.joined();
        let careful = inside || self.again.load(Ordering::Relaxed);
        if (careful || !leader.is_neighbour(asker)) && !leader.goes_on(py)? {
            let depose = || self.wanted.loads.flights().depose(waiter.flight(), leader);
            together(py, depose)?;
        } else if careful && waiter.is_circular(|task| task.waits_for(py)) {
            return Err(PyRuntimeError::new_err(
                "get_or_load: this request comes from a loader that it would have to wait for; \
                 a loader must not ask for its own key, nor two for each other's",
            ));
        }
        Ok(State::Waits(waiter))
    }

    /// One who waits: turned to something else, or with the future to be awaited.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        mut waiter: Waiter<Shared, Task>,
    ) -> PyResult<(State, Option<Bound<'py, PyAny>>)> {
        // Woken, it turns without another future.
        if let Some(turned) = self.poll(&mut waiter, Waker::noop()) {
            return Ok((turned, None));
        }
        let state = Arc::downgrade(&self.state);
        let cut_off = move |why| match (state.upgrade(), why) {
            (Some(state), CutOff::Closed) => leave(&state),
            (Some(state), CutOff::Stopped) => {
                if let State::Waits(waiter) = &*lock(&state) {
                    waiter.decline();
                }
            }
            (None, _) => {}
        };
        let event_loop = running_loop(py)?;
        self.wanted.loads.watch(&event_loop)?;
        let sleeper = Sleeper::new(event_loop, cut_off);
        Ok(match self.poll(&mut waiter, &Waker::from(Arc::clone(&sleeper))) {
            Some(turned) => (turned, None),
            None => (State::Waits(waiter), Some(sleeper.wait(py)?)),
        })
    }

    fn poll(&self, waiter: &mut Waiter<Shared, Task>, waker: &Waker) -> Option<State> {
        let Poll::Ready(turn) = Pin::new(waiter).poll(&mut Context::from_waker(waker)) else {
            return None;
        };
        Some(match turn {
            Turn::Outcome(outcome) => State::Answered(Answer::Loaded(outcome)),
            Turn::Lead(leader) => State::Leads(leader),
            Turn::Retry => {
                self.again.store(true, Ordering::Relaxed);
                State::Apart
            }
            Turn::Late(flight) => {
                self.again.store(true, Ordering::Relaxed);
                let mut in_vain = lock(&self.in_vain);
                *in_vain = Some((flight, in_vain.map_or(1, |(_, times)| times + 1)));
                State::Apart
            }
        })
    }

    /// Stores it unless it was revoked meanwhile, or the cache was switched off or closed.
    fn store(
        &self,
        value: Stored,
        ttl: Duration,
        tags: sark_cache_core::Tags,
        stamp: sark_cache_core::Stamp,
    ) {
        if self.wanted.owner.stores() {
            let (cache, key) = (Arc::clone(&self.wanted.cache), self.wanted.key.clone());
            // Should it be pending, it is in the cache already and moka's log of it is full.
            complete(async move { cache.insert(key, value, ttl, tags, stamp).await });
        }
    }

    /// The general cache raises what it cannot store; a request to the policy cache does not fail
    /// because of it.
    fn report(&self, py: Python<'_>, fault: Fault) -> PyResult<()> {
        let operation = if self.ahead { "refresh" } else { "get_or_load" };
        match &self.wanted.owner {
            Owner::Policy(cache) => PolicyStore::report(cache.bind(py), operation, fault),
            Owner::General(_) => Err(fault.into()),
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
        together(py, || leader.finish(&Arc::new(outcome), tags, store))
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
/// nothing; if the loader raises, `failed()` is called.
pub fn evaluate<'py>(
    cache: &Bound<'py, PolicyStore>,
    loader: &Bound<'py, PyAny>,
    failed: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = loader.py();
    loading(py)?.call_method1(name!(py, "evaluate"), (loader, failed, cache))
}

/// `sark_cache.loading`, whose coroutines drive a [`Load`].
pub fn loading(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static LOADING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let import = || py.import("sark_cache.loading").map(Bound::unbind);
    Ok(LOADING.get_or_try_init(py, import)?.bind(py))
}

#[cold]
fn out_of_turn() -> PyErr {
    PyRuntimeError::new_err("a load does one thing at a time, as its turn says")
}
