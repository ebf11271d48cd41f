//! Single flight: one load per key, whoever asks, and never an answer from before an invalidation.
//!
//! The first to [`join`](Flights::join) a key *leads*: it evaluates, stores, and
//! [finishes](Leader::finish) the *flight*. Whoever joins meanwhile *waits* and is given the same
//! outcome. A leader that is dropped before it finished (its task was cancelled) hands the flight
//! over to the waiter that waited longest, who then evaluates in its own way. A waiter may be
//! dropped at any time and disturbs nobody.
//!
//! A flight has a stamp: the log's clock when its evaluation began. Nobody joins a flight that an
//! invalidation has overtaken; a new one begins beside it, while the old one is finished for those
//! who asked before the invalidation.
//!
//! # Cost
//! One mutex for all flights of a cache, held for a few map operations; wakers and outcomes are
//! called and dropped outside of it. To finish costs some 100 ns for each waiter. Memory: about
//! 300 bytes for a flight and 100 for a waiter, given back when they end.

use crate::log::{Log, Stamp, Subject, Tags, Verdict};
use crate::shim::{Mutex, MutexGuard};
use ahash::RandomState;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

type Map<K, V> = HashMap<K, V, RandomState>;

/// Names a flight: who leads one tells those it calls, so that they do not wait for themselves.
pub type FlightId = u64;

/// All loads under way for one cache, with outcomes of type `T`.
pub struct Flights<T> {
    log: Arc<Log>,
    table: Mutex<Table<T>>,
}

struct Table<T> {
    /// The flight that a key's next request joins.
    current: Map<Box<[u8]>, FlightId>,
    flights: Map<FlightId, Flight>,
    /// Those who wait, and what they were given and have not collected.
    seats: Map<u64, Seat<T>>,
}

/// The last number given to a flight or a seat. One sequence for all caches: loaders of one may ask
/// another, and what they are `within` must not be taken for its flights.
static LAST: AtomicU64 = AtomicU64::new(0);

fn number() -> u64 {
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

struct Flight {
    key: Box<[u8]>,
    tags: Tags,
    stamp: Stamp,
    /// The seats of those who wait, the longest first; some of them may be gone.
    waiting: VecDeque<u64>,
    /// The flights that this one's loader leads or waits for.
    inner: Vec<FlightId>,
}

enum Seat<T> {
    Waiting { since: Stamp, waker: Option<Waker> },
    Given(Given<T>),
}

enum Given<T> {
    Outcome(T),
    Lead,
    Retry,
}

/// What becomes of a request that joins.
pub enum Joined<T: Clone, F> {
    /// It was answered meanwhile.
    Found(F),
    /// It evaluates, for itself and for those who come.
    Lead(Leader<T>),
    /// Somebody else evaluates.
    Wait(Waiter<T>),
    /// Whoever evaluates waits for the one who asks.
    Circular,
}

/// What becomes of a request that waited.
pub enum Turn<T: Clone> {
    /// The outcome.
    Outcome(T),
    /// The leader gave up: now it is this one's turn to evaluate.
    Lead(Leader<T>),
    /// The outcome was revoked before this one asked: it has to join anew.
    Retry,
}

impl<T> Table<T> {
    /// Whether the loader of `from` waits for a flight in `within`, perhaps through others.
    fn reaches(&self, from: FlightId, within: &[FlightId]) -> bool {
        let mut seen = vec![from];
        let mut next = 0;
        while let Some(flight) = seen.get(next).copied() {
            if within.contains(&flight) {
                return true;
            }
            for inner in self.flights.get(&flight).into_iter().flat_map(|flight| &flight.inner) {
                if !seen.contains(inner) {
                    seen.push(*inner);
                }
            }
            next += 1;
        }
        false
    }

    fn enter(&mut self, outer: Option<FlightId>, flight: FlightId) {
        if let Some(outer) = outer.and_then(|outer| self.flights.get_mut(&outer)) {
            outer.inner.push(flight);
        }
    }

    fn leave(&mut self, outer: Option<FlightId>, flight: FlightId) {
        if let Some(outer) = outer.and_then(|outer| self.flights.get_mut(&outer))
            && let Some(at) = outer.inner.iter().position(|inner| *inner == flight)
        {
            outer.inner.swap_remove(at);
        }
    }

    fn end(&mut self, id: FlightId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if self.current.get(&flight.key) == Some(&id) {
            self.current.remove(&flight.key);
        }
        Some(flight)
    }

    /// Gives what one who waits has been waiting for; false if it is gone.
    fn give(&mut self, seat: u64, given: Given<T>, wakers: &mut Vec<Waker>) -> bool {
        let Some(seat) = self.seats.get_mut(&seat) else { return false };
        if let Seat::Waiting { waker, .. } = mem::replace(seat, Seat::Given(given)) {
            wakers.extend(waker);
        }
        true
    }
}

impl<T> Flights<T> {
    /// No flight yet; what is revoked is asked of `log`.
    pub fn new(log: Arc<Log>) -> Self {
        Self { log, table: Mutex::new(Table::default()) }
    }

    fn holds(&self, stamp: Stamp, key: &[u8], tags: &Tags) -> bool {
        self.log.verdict(stamp, Subject { key, tags }) != Verdict::Overtaken
    }

    fn lock(&self) -> MutexGuard<'_, Table<T>> {
        // Nothing that runs under the lock panics half way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Flights<T> {
    /// Joins the load of `key`: leads it, or waits for who does.
    ///
    /// `tags` are those that the decision is known to depend on. `within` are the flights whose
    /// loaders this request comes from, outermost first. `found` looks whether the key was stored
    /// meanwhile: a leader stores first and finishes then, so whoever finds neither leads.
    pub fn join<F>(
        self: &Arc<Self>,
        key: &[u8],
        tags: &Tags,
        within: &[FlightId],
        found: impl FnOnce() -> Option<F>,
    ) -> Joined<T, F> {
        let outer = within.last().copied();
        let mut table = self.lock();
        let now = self.log.newest();
        if let Some((id, flight)) =
            table.current.get(key).and_then(|id| Some((*id, table.flights.get(id)?)))
            && self.holds(flight.stamp, key, &flight.tags)
            && self.holds(flight.stamp, key, tags)
        {
            if table.reaches(id, within) {
                return Joined::Circular;
            }
            let seat = number();
            table.seats.insert(seat, Seat::Waiting { since: now, waker: None });
            if let Some(flight) = table.flights.get_mut(&id) {
                flight.waiting.push_back(seat);
            }
            table.enter(outer, id);
            return Joined::Wait(Waiter { flights: Arc::clone(self), flight: id, seat, outer });
        }
        if let Some(found) = found() {
            return Joined::Found(found);
        }
        let id = number();
        let flight = Flight {
            key: key.into(),
            tags: tags.clone(),
            stamp: now,
            waiting: VecDeque::new(),
            inner: Vec::new(),
        };
        table.flights.insert(id, flight);
        table.current.insert(key.into(), id);
        table.enter(outer, id);
        Joined::Lead(Leader { flights: Arc::clone(self), id, stamp: now, outer, over: false })
    }

    /// How many loads are under way.
    pub fn len(&self) -> usize {
        self.lock().flights.len()
    }

    /// Whether no load is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every flight: for a forked child, in which neither those who lead nor those who wait
    /// go on. What they hold stays where it is, as whatever else the parent was doing does.
    pub fn forget(&self) {
        mem::forget(mem::take(&mut *self.lock()));
    }

    /// Makes the one who waited longest the leader; without any the flight ends.
    fn hand_over(&self, id: FlightId, outer: Option<FlightId>) {
        let (mut wakers, mut ended) = (Vec::new(), None);
        let mut table = self.lock();
        table.leave(outer, id);
        while let Some(flight) = table.flights.get_mut(&id) {
            // Whoever leads next evaluates after this moment.
            flight.stamp = self.log.newest();
            match flight.waiting.pop_front() {
                Some(seat) if table.give(seat, Given::Lead, &mut wakers) => break,
                Some(_) => {}
                None => ended = table.end(id),
            }
        }
        drop(table);
        drop(ended);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { current: Map::default(), flights: Map::default(), seats: Map::default() }
    }
}

/// The one who evaluates. Dropped unfinished, it hands over to a waiter.
pub struct Leader<T: Clone> {
    flights: Arc<Flights<T>>,
    id: FlightId,
    stamp: Stamp,
    outer: Option<FlightId>,
    over: bool,
}

impl<T: Clone> Leader<T> {
    /// Names the flight, for what the loader itself asks for.
    pub fn flight(&self) -> FlightId {
        self.id
    }

    /// When the evaluation began: what it brings is stored with this stamp.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Ends the flight and gives everybody its outcome. To be called after it was stored.
    ///
    /// `tags` are all that the decision turned out to depend on. If one that was not known when the
    /// flight began was revoked since, the outcome is given only to those who joined before that
    /// could have happened; the others join anew.
    pub fn finish(mut self, outcome: &T, tags: &Tags) {
        self.over = true;
        let mut wakers = Vec::new();
        let mut table = self.flights.lock();
        table.leave(self.outer, self.id);
        let ended = table.end(self.id);
        if let Some(flight) = &ended {
            let late = tags.without(&flight.tags);
            // Asked under the lock: what was revoked before somebody joined is known by now.
            let revoked = !late.is_empty() && !self.flights.holds(self.stamp, &flight.key, &late);
            for seat in &flight.waiting {
                let given = match table.seats.get(seat) {
                    Some(Seat::Waiting { since, .. }) if revoked && *since > self.stamp => {
                        Given::Retry
                    }
                    _ => Given::Outcome(outcome.clone()),
                };
                table.give(*seat, given, &mut wakers);
            }
        }
        drop(table);
        drop(ended);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T: Clone> Drop for Leader<T> {
    fn drop(&mut self) {
        if !self.over {
            self.flights.hand_over(self.id, self.outer);
        }
    }
}

/// One who waits; a future of its [`Turn`].
pub struct Waiter<T: Clone> {
    flights: Arc<Flights<T>>,
    flight: FlightId,
    seat: u64,
    outer: Option<FlightId>,
}

impl<T: Clone> Future for Waiter<T> {
    type Output = Turn<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn<T>> {
        let mut table = self.flights.lock();
        if let Some(Seat::Waiting { waker, .. }) = table.seats.get_mut(&self.seat) {
            let before = waker.replace(context.waker().clone());
            drop(table);
            drop(before);
            return Poll::Pending;
        }
        let turn = match table.seats.remove(&self.seat) {
            Some(Seat::Given(Given::Lead)) => {
                // Forgotten flights have no leader.
                let stamp = table.flights.get(&self.flight).map(|flight| flight.stamp);
                stamp.map_or(Turn::Retry, |stamp| {
                    let flights = Arc::clone(&self.flights);
                    let (id, outer) = (self.flight, self.outer);
                    Turn::Lead(Leader { flights, id, stamp, outer, over: false })
                })
            }
            Some(Seat::Given(Given::Outcome(outcome))) => {
                table.leave(self.outer, self.flight);
                Turn::Outcome(outcome)
            }
            _ => {
                table.leave(self.outer, self.flight);
                Turn::Retry
            }
        };
        Poll::Ready(turn)
    }
}

impl<T: Clone> Drop for Waiter<T> {
    fn drop(&mut self) {
        let mut table = self.flights.lock();
        let Some(seat) = table.seats.remove(&self.seat) else { return };
        table.leave(self.outer, self.flight);
        drop(table);
        if let Seat::Given(Given::Lead) = seat {
            // Called to lead and gone: it is the next one's turn.
            self.flights.hand_over(self.flight, None);
        }
    }
}
