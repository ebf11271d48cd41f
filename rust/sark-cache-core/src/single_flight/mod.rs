//! Single flight: one load per key, and no outcome from before an invalidation.
//!
//! The first caller to [`join`](Flights::join) a key becomes the *leader*: it evaluates, stores the
//! outcome, and [finishes](Leader::finish) the *flight*. Callers that join in between become
//! *waiters* and get the same outcome. A leader that is dropped before it finishes (its task was
//! cancelled) hands the flight over to the waiter that has waited longest. That waiter then runs
//! its own evaluation. A waiter may be dropped at any time; the others are not affected.
//!
//! # Invalidation
//! A flight has a stamp: the log's newest stamp when its evaluation began. A caller never joins a
//! flight that has been revoked since. It starts a new flight, which becomes the *current* one of
//! the key. The old flight is *superseded*: it answers the callers that joined before the
//! invalidation, and stores nothing.
//!
//! # Without a lease
//! If other processes revoke too, the log is complete only under a valid
//! [lease](Flights::with_lease). A caller without a valid lease does not join a flight that is
//! already running. It becomes a waiter of the *next* flight, which all such callers share. The
//! next flight begins when the running one ends, and its first waiter leads it. So one evaluation
//! per key runs at a time, with or without a lease.
//!
//! # Refresh
//! A stored entry can be [refreshed](Flights::start_refresh) before it expires. A refresh has no
//! waiters: a caller that misses starts a flight that supersedes it.
//!
//! # No caller waits forever
//! A leader may never finish: its event loop was stopped or closed, or its loader waits for a
//! caller that waits for it. Four rules let every waiter proceed. Under each of them the next
//! leader takes a new stamp, and the old leader stores nothing if it resumes.
//!
//! - **An abandoned flight [ends](Flights::end_abandoned).** Only the user of this crate knows
//!   whether the task of a leader still runs. The user checks when a caller joins, and at each
//!   [`check_waiters`](Flights::check_waiters).
//! - **A successor has one [`CHECK_INTERVAL`] to take the lead.** After that the lead goes to the
//!   next waiter, and the late successor joins again.
//! - **A deadlock is an error.** A task waits for one thing at a time, so a [`WaitGraph`] of the
//!   waiting and the leading tasks holds every circle, across all caches that share the graph. An
//!   edge exists only while a task waits. The user of this crate adds the edges between tasks that
//!   wait for each other without a flight. A task that a loader started and that no task awaits is
//!   in no circle; it waits like any other.
//! - **A waiter waits for at most [`WAIT_LIMIT`].** Then it starts a flight of its own, which
//!   supersedes the one it waited for. This ends circles that the graph cannot see, such as one
//!   through a thread. A caller that joins another waiter's new flight waits once more and then
//!   evaluates in any case. When [`MAX_SUPERSEDED`] evaluations of one key accumulate in this way,
//!   the next is refused, because the loaders of that key do not return.
//!
//! The user has to call `check_waiters` while a waiter exists. Only that method needs the time, so
//! waiting and finishing read no clock. Joining reads one only if the lease can end.
//!
//! # Cost
//! One mutex guards all flights of a cache. It is held for a few map operations and while an
//! outcome is stored; wakers and outcomes are called and dropped outside of it. Finishing costs
//! about 100 ns per waiter. Entering the wait graph, which all caches share, costs a waiter another
//! 50 ns. Memory: about 300 bytes per flight and 200 per waiter, freed when they end.

mod check;
mod leader;
mod pauses;
mod table;
mod wait_graph;
mod waiter;

pub use check::WaiterCheck;
pub use leader::Leader;
pub use pauses::{FIRST_PAUSE, LONGEST_PAUSE, MAX_PAUSES, Pauses};
pub use wait_graph::{Caller, MAX_VISITED, WaitGraph};
pub use waiter::{WaitOutcome, Waiter};

use crate::coherence::Lease;
use crate::invalidation::{Log, Stamp, Subject, Tags, Verdict};
use crate::shim::{Mutex, MutexGuard};
use ahash::RandomState;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use table::{AfterUnlock, Delivery, Flight, FlightTable, SlotState, WaiterSlot, lock, number};

type Map<K, V> = HashMap<K, V, RandomState>;

/// The interval at which to call [`Flights::check_waiters`] while a waiter exists.
///
/// Also the time that a successor has to take the lead, and that a woken waiter has to collect its
/// outcome before it is woken again.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The time that a waiter waits for another caller's evaluation before it evaluates for itself.
pub const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// The largest number of unfinished evaluations of one key that may supersede each other.
pub const MAX_SUPERSEDED: u32 = 16;

/// The number of a flight, unique within the process.
pub type FlightId = u64;

/// The running loads of one cache, with outcomes of type `T` and callers of type `A`.
///
/// Every method takes one mutex; the numbers are in the [module's documentation](self#cost).
pub struct Flights<T, A> {
    log: Arc<Log>,
    lease: Lease,
    graph: Arc<WaitGraph<A>>,
    table: Mutex<FlightTable<T, A>>,
}

/// The role of a caller after [`Flights::join`].
pub enum Joined<T: Clone, A: Caller, F> {
    /// The key was stored before this caller could join a flight.
    Found(F),
    /// The caller evaluates, for itself and for the waiters that join.
    Lead(Leader<T, A>),
    /// Another caller evaluates.
    Wait(Waiter<T, A>),
    /// More than [`MAX_SUPERSEDED`] evaluations of this key are unfinished.
    TooManyLoads,
}

impl<T, A: Caller> Flights<T, A> {
    /// Creates an empty set of flights that are revoked by `log`; deadlocks are found in `graph`.
    pub fn new(log: Arc<Log>, graph: Arc<WaitGraph<A>>) -> Self {
        Self { log, lease: Lease::always(), graph, table: Mutex::new(FlightTable::default()) }
    }

    /// Sets the lease without which no caller joins a flight that has begun. It never ends by
    /// default.
    #[must_use]
    pub fn with_lease(self, lease: Lease) -> Self {
        Self { lease, ..self }
    }

    fn is_valid(&self, stamp: Stamp, key: &[u8], tags: &Tags) -> bool {
        self.log.verdict(stamp, Subject { key, tags }) != Verdict::Invalidated
    }

    fn lock(&self) -> MutexGuard<'_, FlightTable<T, A>> {
        lock(&self.table)
    }

    /// Changes the table under its lock, then wakes and drops what the change left to do.
    fn change<R>(
        &self,
        change: impl FnOnce(&mut FlightTable<T, A>, &mut AfterUnlock<A>) -> R,
    ) -> R {
        let mut after = AfterUnlock::new();
        let mut table = self.lock();
        let result = change(&mut table, &mut after);
        drop(table);
        after.run();
        result
    }

    /// Puts `delivery` into the slot of a waiter. Returns false if the waiter was dropped.
    fn deliver(
        &self,
        table: &mut FlightTable<T, A>,
        number: u64,
        delivery: Delivery<T>,
        after: &mut AfterUnlock<A>,
    ) -> bool {
        let Some(slot) = table.slots.get_mut(&number) else { return false };
        self.graph.leave(slot.caller.id(), number);
        slot.state = SlotState::Delivered(delivery);
        slot.seen = None;
        // The slot keeps the waker, so that `check_waiters` can repeat a lost wake-up.
        after.wakers.extend(slot.waker.clone());
        true
    }

    /// Makes all these waiters join again.
    fn retry_all(
        &self,
        table: &mut FlightTable<T, A>,
        waiting: &VecDeque<u64>,
        after: &mut AfterUnlock<A>,
    ) {
        for slot in waiting {
            self.deliver(table, *slot, Delivery::Retry, after);
        }
    }

    /// Ends a flight without a leader; its waiters join again.
    fn end_and_retry(
        &self,
        table: &mut FlightTable<T, A>,
        id: FlightId,
        after: &mut AfterUnlock<A>,
    ) {
        let Some(flight) = table.end(id) else { return };
        self.retry_all(table, &flight.waiting, after);
        self.end(table, flight, after);
    }

    /// Leaves an ended flight to be dropped, and begins the flight that was to follow it.
    fn end(&self, table: &mut FlightTable<T, A>, ended: Flight<A>, after: &mut AfterUnlock<A>) {
        if let Some(next) = ended.next {
            if let Some(flight) = table.flights.get_mut(&next) {
                flight.follows = None;
            }
            // If a flight superseded the one that ended, these waiters join that flight.
            if !table.current.contains_key(&ended.key) {
                table.current.insert(ended.key.clone(), next);
            }
            self.appoint_next(table, next, after);
        }
        after.ended.push(ended);
    }

    /// Appoints the waiter that has waited longest. Without waiters the flight ends.
    ///
    /// A superseded flight ends too: its waiters join the current one.
    fn appoint_next(
        &self,
        table: &mut FlightTable<T, A>,
        id: FlightId,
        after: &mut AfterUnlock<A>,
    ) {
        if !table.is_current(id) {
            return self.end_and_retry(table, id, after);
        }
        while let Some(flight) = table.flights.get_mut(&id) {
            // The next leader begins its evaluation after this moment.
            flight.stamp = self.log.newest();
            let Some(successor) = flight.waiting.pop_front() else {
                if let Some(flight) = table.end(id) {
                    self.end(table, flight, after);
                }
                return;
            };
            if self.deliver(table, successor, Delivery::Lead, after) {
                table.appoint(id, successor);
                return;
            }
        }
    }

    fn hand_over(&self, id: FlightId) {
        self.change(|table, after| self.appoint_next(table, id, after));
    }
}

impl<T: Clone, A: Caller> Flights<T, A> {
    /// Joins the load of `key`: as its leader, or as a waiter.
    ///
    /// - `tags` are the tags that the decision is known to depend on.
    /// - `supersedes` is asked for the flight that the caller would wait for, if there is one. If
    ///   it returns true, the caller starts a flight that supersedes the current one; otherwise the
    ///   caller waits.
    /// - `found` looks the key up once more. A leader stores before it finishes, so a caller that
    ///   finds neither a flight nor an entry leads.
    ///
    /// A waiter should be checked with [`Waiter::is_deadlocked`] before it is awaited.
    pub fn join<F>(
        self: &Arc<Self>,
        key: &[u8],
        tags: &Tags,
        caller: &A,
        supersedes: impl FnOnce(FlightId) -> bool,
        found: impl FnOnce() -> Option<F>,
    ) -> Joined<T, A, F> {
        // The lease first, then the log: the records that the lease relies on are in the log.
        let is_leased = self.lease.is_valid();
        let mut table = self.lock();
        let now = self.log.newest();
        let joinable = self.valid_flight(&table, key).filter(|(_, flight)| {
            !flight.is_refresh
                && self.is_valid(flight.stamp, key, tags)
                // A decision with more tags cannot be stored: this caller loads separately.
                && flight.has_room_for(tags)
        });
        let mut unfinished = 0;
        if let Some((id, flight)) = joinable {
            unfinished = flight.superseded + 1;
            let next = flight.next;
            if is_leased {
                if !supersedes(id) {
                    return Joined::Wait(self.wait(&mut table, id, tags, caller, now));
                }
            } else if next.is_some_and(|next| !table.has_room_for(next, tags)) {
                unfinished = 0;
            } else if !supersedes(next.unwrap_or(id)) {
                let next = next.unwrap_or_else(|| table.plan_next(id, tags));
                return Joined::Wait(self.wait(&mut table, next, tags, caller, now));
            }
        }
        if let Some(found) = found() {
            return Joined::Found(found);
        }
        if unfinished > MAX_SUPERSEDED {
            return Joined::TooManyLoads;
        }
        let flight = Flight::new(key, tags, now, caller, unfinished);
        Joined::Lead(self.leader(table.begin(flight), now, unfinished > 0))
    }

    fn wait(
        self: &Arc<Self>,
        table: &mut FlightTable<T, A>,
        id: FlightId,
        tags: &Tags,
        caller: &A,
        since: Stamp,
    ) -> Waiter<T, A> {
        let slot = number();
        let state = SlotState::Waiting;
        let taken = WaiterSlot { state, caller: caller.clone(), since, waker: None, seen: None };
        table.slots.insert(slot, taken);
        if let Some(flight) = table.flights.get_mut(&id) {
            flight.waiting.push_back(slot);
            // The outcome depends on the tags of every caller.
            flight.tags = flight.tags.union(tags);
            let leader = &flight.leader;
            let shared_leader =
                flight.shared_leader.get_or_insert_with(|| Arc::new(Mutex::new(leader.clone())));
            self.graph.enter(caller.id(), slot, shared_leader);
        }
        let leader_at_join = table.flights.get(&id).map_or(caller, |flight| &flight.leader).clone();
        let (flights, caller) = (Arc::clone(self), caller.clone());
        Waiter { flights, flight: id, slot, caller, leader_at_join }
    }

    fn leader(
        self: &Arc<Self>,
        id: FlightId,
        stamp: Stamp,
        superseded_another: bool,
    ) -> Leader<T, A> {
        Leader { flights: Arc::clone(self), id, stamp, superseded_another, finished: false }
    }

    /// Starts a refresh of the entry under `key`.
    ///
    /// Returns `None` if a load or a refresh of that key, even a superseded one, is still running:
    /// an evaluator that has not answered is not asked again.
    pub fn start_refresh(
        self: &Arc<Self>,
        key: &[u8],
        tags: &Tags,
        caller: &A,
    ) -> Option<Leader<T, A>> {
        let mut table = self.lock();
        if table.refreshes.contains_key(key) || self.valid_flight(&table, key).is_some() {
            return None;
        }
        let stamp = self.log.newest();
        let id =
            table.begin(Flight { is_refresh: true, ..Flight::new(key, tags, stamp, caller, 0) });
        table.refreshes.insert(key.into(), id);
        Some(self.leader(id, stamp, false))
    }

    /// Returns the flight that refreshes the entry under `key`, and its leader.
    pub fn running_refresh(&self, key: &[u8]) -> Option<(FlightId, A)> {
        let table = self.lock();
        let id = *table.refreshes.get(key)?;
        Some((id, table.flights.get(&id)?.leader.clone()))
    }

    /// Supersedes the current flight of `key`, if there is one, because a newer decision is about
    /// to be stored. The outcome of the flight does not overwrite that decision.
    pub fn supersede(&self, key: &[u8]) {
        let mut table = self.lock();
        // Mostly there are no flights; then the key needs no hash.
        if !table.current.is_empty() {
            table.current.remove(key);
        }
    }

    /// Returns the current flight of `key`, unless it was revoked.
    fn valid_flight<'t>(
        &self,
        table: &'t FlightTable<T, A>,
        key: &[u8],
    ) -> Option<(FlightId, &'t Flight<A>)> {
        let id = *table.current.get(key)?;
        let flight = table.flights.get(&id)?;
        self.is_valid(flight.stamp, key, &flight.tags).then_some((id, flight))
    }

    /// Ends a flight whose leader no longer runs, if `leader` still leads it.
    ///
    /// Its waiters join again. If the leader resumes, it stores nothing.
    pub fn end_abandoned(&self, id: FlightId, leader: &A) {
        self.change(|table, after| {
            // A flight that has not begun waits for the leader of the one that it follows.
            let id = table.flights.get(&id).and_then(|flight| flight.follows).unwrap_or(id);
            if table.flights.get(&id).is_some_and(|flight| flight.leader.id() == leader.id()) {
                self.end_and_retry(table, id, after);
            }
        });
    }

    /// Makes all waiters of a flight join again, so that they are checked for a deadlock again.
    pub fn retry_waiters(&self, id: FlightId) {
        self.change(|table, after| {
            if let Some(flight) = table.flights.get_mut(&id) {
                let waiting = mem::take(&mut flight.waiting);
                self.retry_all(table, &waiting, after);
            }
        });
    }

    /// Returns the number of running flights.
    pub fn len(&self) -> usize {
        self.lock().flights.len()
    }

    /// Returns whether no flight is running.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every flight without dropping it, for a forked child.
    ///
    /// The tasks of the parent do not run in the child. Dropping their leaders and wakers there
    /// could run code that relies on these tasks.
    pub fn forget(&self) {
        mem::forget(mem::take(&mut *self.lock()));
    }
}
