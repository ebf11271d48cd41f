//! Single flight: one load per key, whoever asks, and never an answer from before an invalidation.
//!
//! The first to [`join`](Flights::join) a key *leads*: it evaluates, stores, and
//! [finishes](Leader::finish) the *flight*. Whoever joins meanwhile *waits* and is given the same
//! outcome. A leader that is dropped before it finished (its task was cancelled) hands the flight
//! over to the waiter that waited longest, who then evaluates in its own way. A waiter may be
//! dropped at any time and disturbs nobody.
//!
//! A flight has a stamp: the log's clock when its evaluation began. Nobody joins a flight that an
//! invalidation has overtaken; a new one begins in its place, and the old one is finished for those
//! who asked before the invalidation. A flight that lost its place stores nothing.
//!
//! What is stored can also be refreshed [ahead](Flights::lead_ahead). Nobody waits for that: who
//! misses meanwhile begins a flight in its place.
//!
//! # Cost
//! One mutex for all flights of a cache, held for a few map operations and while an outcome is
//! stored; wakers and outcomes are called and dropped outside of it. To finish costs some 100 ns for each waiter. Memory: about
//! 300 bytes for a flight and 100 for a waiter, given back when they end.

use crate::log::{Log, Stamp, Subject, Tags, Verdict};
use crate::shim::{Mutex, MutexGuard};
use ahash::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
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
    /// The keys that are being refreshed, each by one flight, whether it still has its place or not.
    ahead: HashSet<Box<[u8]>, RandomState>,
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
    /// Those of everybody who joined.
    tags: Tags,
    stamp: Stamp,
    /// Refreshes what is stored; nobody waits for it.
    ahead: bool,
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

    fn is_current(&self, id: FlightId, flight: &Flight) -> bool {
        self.current.get(&flight.key) == Some(&id)
    }

    /// The innermost load that is still under way of those that a request comes from.
    fn innermost(&self, within: &[FlightId]) -> Option<FlightId> {
        within.iter().rev().find(|id| self.flights.contains_key(id)).copied()
    }

    fn begin(&mut self, key: &[u8], tags: &Tags, stamp: Stamp, ahead: bool) -> FlightId {
        let (id, key, tags): (_, Box<[u8]>, _) = (number(), key.into(), tags.clone());
        let (waiting, inner) = (VecDeque::new(), Vec::new());
        self.current.insert(key.clone(), id);
        self.flights.insert(id, Flight { key, tags, stamp, ahead, waiting, inner });
        id
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
        if flight.ahead {
            self.ahead.remove(&flight.key);
        }
        if self.is_current(id, &flight) {
            self.current.remove(&flight.key);
        }
        Some(flight)
    }

    /// Forgets the seats of those who gave up, as far as they are the first or the last of a flight.
    fn trim(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let gone = |seat: Option<&u64>| seat.is_some_and(|seat| !self.seats.contains_key(seat));
        while gone(flight.waiting.front()) {
            flight.waiting.pop_front();
        }
        while gone(flight.waiting.back()) {
            flight.waiting.pop_back();
        }
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
        let mut table = self.lock();
        let now = self.log.newest();
        let outer = table.innermost(within);
        if let Some((id, flight)) = self.joinable(&table, key)
            && !flight.ahead
            && self.holds(flight.stamp, key, tags)
        {
            if table.reaches(id, within) {
                return Joined::Circular;
            }
            let seat = number();
            table.seats.insert(seat, Seat::Waiting { since: now, waker: None });
            if let Some(flight) = table.flights.get_mut(&id) {
                flight.waiting.push_back(seat);
                // What any of them depends on, the outcome does.
                flight.tags = flight.tags.with(tags);
            }
            table.enter(outer, id);
            return Joined::Wait(Waiter { flights: Arc::clone(self), flight: id, seat, outer });
        }
        if let Some(found) = found() {
            return Joined::Found(found);
        }
        let id = table.begin(key, tags, now, false);
        table.enter(outer, id);
        Joined::Lead(Leader { flights: Arc::clone(self), id, stamp: now, outer, over: false })
    }

    /// Leads a load of what is stored under `key`, so that its successor is there in time; `None` if
    /// a load of it is under way, or a refresh, be it one that lost its place: whoever evaluates is
    /// not asked again before it answered.
    pub fn lead_ahead(self: &Arc<Self>, key: &[u8], tags: &Tags) -> Option<Leader<T>> {
        let mut table = self.lock();
        if table.ahead.contains(key) || self.joinable(&table, key).is_some() {
            return None;
        }
        table.ahead.insert(key.into());
        let stamp = self.log.newest();
        let id = table.begin(key, tags, stamp, true);
        Some(Leader { flights: Arc::clone(self), id, stamp, outer: None, over: false })
    }

    /// Whether what is stored under `key` is being refreshed.
    pub fn is_led_ahead(&self, key: &[u8]) -> bool {
        self.lock().ahead.contains(key)
    }

    /// Takes its place from the load of `key`, if one is under way: something newer is about to be
    /// stored, which what it brings must not overwrite.
    pub fn supersede(&self, key: &[u8]) {
        let mut table = self.lock();
        // As it mostly is: then there is nothing to hash for.
        if !table.current.is_empty() {
            table.current.remove(key);
        }
    }

    /// The flight that has the place of `key`, unless an invalidation overtook it.
    fn joinable<'t>(&self, table: &'t Table<T>, key: &[u8]) -> Option<(FlightId, &'t Flight)> {
        let id = *table.current.get(key)?;
        let flight = table.flights.get(&id)?;
        self.holds(flight.stamp, key, &flight.tags).then_some((id, flight))
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

    /// Makes the one who waited longest the leader; without any the flight ends. One that lost its
    /// place ends, too: who waits for it joins the one that has it.
    fn hand_over(&self, id: FlightId, outer: Option<FlightId>) {
        let (mut wakers, mut ended) = (Vec::new(), None);
        let mut table = self.lock();
        table.leave(outer, id);
        let has_place = table.flights.get(&id).is_some_and(|flight| table.is_current(id, flight));
        while let Some(flight) = table.flights.get_mut(&id).filter(|_| has_place) {
            // Whoever leads next evaluates after this moment.
            flight.stamp = self.log.newest();
            match flight.waiting.pop_front() {
                Some(seat) if table.give(seat, Given::Lead, &mut wakers) => break,
                Some(_) => {}
                None => ended = table.end(id),
            }
        }
        if !has_place {
            ended = table.end(id);
            for seat in ended.iter().flat_map(|flight| &flight.waiting) {
                table.give(*seat, Given::Retry, &mut wakers);
            }
        }
        drop(table);
        drop(ended);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            current: Map::default(),
            flights: Map::default(),
            ahead: HashSet::default(),
            seats: Map::default(),
        }
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

    /// How many wait for the outcome.
    pub fn waiting(&self) -> usize {
        let table = self.flights.lock();
        let seats = table.flights.get(&self.id).into_iter().flat_map(|flight| &flight.waiting);
        seats.filter(|seat| table.seats.contains_key(seat)).count()
    }

    /// Ends the flight: lets `store` store what it brought, unless it lost its place, and gives
    /// everybody the outcome.
    ///
    /// `tags` are all that the decision turned out to depend on. If one that was not known when the
    /// flight began was revoked since, the outcome is given only to those who joined before that
    /// could have happened; the others join anew. `store` is told the stamp and all tags. It runs
    /// under the lock, so that nobody who asks meanwhile finds neither the flight nor what it
    /// brought, and must not come back here.
    pub fn finish(mut self, outcome: &T, tags: &Tags, store: impl FnOnce(Stamp, Tags)) {
        self.over = true;
        let mut wakers = Vec::new();
        let mut table = self.flights.lock();
        table.leave(self.outer, self.id);
        if let Some(flight) = table.flights.get(&self.id)
            && table.is_current(self.id, flight)
        {
            store(self.stamp, flight.tags.with(tags));
        }
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
        table.trim(self.flight);
        drop(table);
        if let Seat::Given(Given::Lead) = seat {
            // Called to lead and gone: it is the next one's turn.
            self.flights.hand_over(self.flight, None);
        }
    }
}
