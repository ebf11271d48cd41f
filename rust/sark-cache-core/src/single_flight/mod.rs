//! Single flight: one load per key, whoever asks, and never an answer from before an invalidation.
//!
//! The first to [`join`](Flights::join) a key *leads*: it evaluates, stores, and
//! [finishes](Leader::finish) the *flight*. Requests that join during that time *wait* and are given
//! the same outcome. A leader that is dropped before it finished (its task was cancelled) hands the
//! flight over to the waiter that waited longest, which then evaluates in its own way. A waiter may
//! be dropped at any time and disturbs nobody.
//!
//! A flight has a stamp: the log's clock when its evaluation began. Nobody joins a flight that an
//! invalidation has overtaken; a new one begins in its place, and the old one is finished for the
//! requests that came before the invalidation. A flight that lost its place stores nothing.
//!
//! What is stored can also be refreshed [ahead](Flights::start_refresh). Nobody waits for that: a
//! request that misses begins a flight in its place.
//!
//! # No request waits for ever
//! A leader may never come back: its event loop was stopped or closed, or its loader waits for a
//! request that waits for it. Four rules let every waiter get on. In each of them the new leader
//! takes a new stamp, and the old one stores nothing should it come back.
//!
//! - **A leader that does not go on is [deposed](Flights::depose).** Only the caller knows whether
//!   the task of a leader still runs; it asks when a request joins, and at each
//!   [`look_after`](Flights::look_after).
//! - **An heir has a [`MOMENT`] to take the lead.** Then the lead goes to the next waiter, and the
//!   late heir joins again.
//! - **A request that would wait for itself is an error.** A task waits for one thing at a time, so
//!   a [`WaitGraph`] of the tasks that wait and the tasks that lead holds every such circle, across
//!   all caches that share the graph. An edge exists only while a task really waits. Whether a task
//!   waits for *another task* is the caller's knowledge, again. A task that a loader made and that
//!   nobody waits for is in no circle and waits like everybody.
//! - **A waiter waits for [`PATIENCE`].** Then it begins a flight of its own in the place of the one
//!   it waited for: should the circle lead through something that nobody can see, such as a thread,
//!   it ends here. A request that joins another waiter's new flight waits once more, and then
//!   evaluates in any case. If [`MAX_OVERTAKEN`] evaluations of one key pile up in this way, the next
//!   one is refused: then its loader never ends.
//!
//! Someone has to call `look_after` while somebody waits. It marks what it sees with the time, so
//! that joining, waiting and finishing read no clock.
//!
//! # Cost
//! One mutex for all flights of a cache, held for a few map operations and while an outcome is
//! stored; wakers and outcomes are called and dropped outside of it. To finish costs some 100 ns for
//! each waiter. A waiter enters the graph, which all caches share, for another 50 ns. Memory: about
//! 300 bytes for a flight and 200 for a waiter, given back when they end.

mod leader;
mod look_after;
mod pauses;
mod table;
mod wait_graph;
mod waiter;

pub use leader::Leader;
pub use look_after::Look;
pub use pauses::Pauses;
pub use wait_graph::{Asker, WaitGraph};
pub use waiter::{WaitOutcome, Waiter};

use crate::invalidation::{Log, Stamp, Subject, Tags, Verdict};
use crate::limits::MAX_TAGS;
use crate::shim::{Mutex, MutexGuard};
use ahash::RandomState;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use table::{Delivery, Flight, FlightTable, Later, SlotState, WaiterSlot, lock, number};

type Map<K, V> = HashMap<K, V, RandomState>;

/// How long an heir may take to lead, and a resumed waiter to collect its outcome. Also the
/// interval at which [`Flights::look_after`] should be called.
pub const MOMENT: Duration = Duration::from_millis(500);

/// How long a request waits for somebody else's evaluation before it evaluates for itself.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How many evaluations of one key may take each other's place because they did not end.
pub const MAX_OVERTAKEN: u32 = 16;

/// Names a flight.
pub type FlightId = u64;

/// All loads of one cache that are running, with outcomes of type `T`, asked for by `A`s.
pub struct Flights<T, A> {
    log: Arc<Log>,
    graph: Arc<WaitGraph<A>>,
    table: Mutex<FlightTable<T, A>>,
}

/// What becomes of a request that joins.
pub enum Joined<T: Clone, A: Asker, F> {
    /// It was answered in the meantime.
    Found(F),
    /// It evaluates, for itself and for those who come.
    Lead(Leader<T, A>),
    /// Somebody else evaluates.
    Wait(Waiter<T, A>),
    /// Too many evaluations of this key do not end.
    Crowded,
}

impl<T, A: Asker> Flights<T, A> {
    /// No flight yet; revocations are looked up in `log`, circles in `graph`.
    pub fn new(log: Arc<Log>, graph: Arc<WaitGraph<A>>) -> Self {
        Self { log, graph, table: Mutex::new(FlightTable::default()) }
    }

    fn holds(&self, stamp: Stamp, key: &[u8], tags: &Tags) -> bool {
        self.log.verdict(stamp, Subject { key, tags }) != Verdict::Invalidated
    }

    fn lock(&self) -> MutexGuard<'_, FlightTable<T, A>> {
        lock(&self.table)
    }

    /// Gives what one who waits has been waiting for; false if it is gone.
    fn deliver(
        &self,
        table: &mut FlightTable<T, A>,
        number: u64,
        delivery: Delivery<T>,
        later: &mut Later<A>,
    ) -> bool {
        let Some(slot) = table.slots.get_mut(&number) else { return false };
        self.graph.leave(slot.asker.id(), number);
        slot.state = SlotState::Delivered(delivery);
        slot.seen = None;
        // Kept, so that it can be woken again should that get lost.
        later.wakers.extend(slot.waker.clone());
        true
    }

    /// Lets everybody who waits for a flight join again.
    fn retry_all(
        &self,
        table: &mut FlightTable<T, A>,
        waiting: &VecDeque<u64>,
        later: &mut Later<A>,
    ) {
        for slot in waiting {
            self.deliver(table, *slot, Delivery::Retry, later);
        }
    }

    /// Ends a flight that has no leader; who waits for it joins again.
    fn disband(&self, table: &mut FlightTable<T, A>, id: FlightId, later: &mut Later<A>) {
        let Some(flight) = table.end(id) else { return };
        self.retry_all(table, &flight.waiting, later);
        later.ended.push(flight);
    }

    /// Makes the one who waited longest the leader; without any the flight ends. One that lost its
    /// place ends, too: who waits for it joins the one that has it.
    fn pass_on(&self, table: &mut FlightTable<T, A>, id: FlightId, later: &mut Later<A>) {
        if !table.has_place(id) {
            return self.disband(table, id, later);
        }
        while let Some(flight) = table.flights.get_mut(&id) {
            // Whoever leads next evaluates after this moment.
            flight.stamp = self.log.newest();
            let Some(heir) = flight.waiting.pop_front() else {
                later.ended.extend(table.end(id));
                return;
            };
            if self.deliver(table, heir, Delivery::Lead, later) {
                table.enthrone(id, heir);
                return;
            }
        }
    }
}

impl<T: Clone, A: Asker> Flights<T, A> {
    /// Joins the load of `key`: leads it, or waits for the request that does.
    ///
    /// `tags` are those that the decision is known to depend on. A flight that `overtakes` names is
    /// not joined: this request takes its place. `found` looks whether the key was stored in the
    /// meantime: a leader stores first and finishes then, so a request that finds neither leads.
    ///
    /// One that waits should ask whether it [is circular](Waiter::is_circular) before it sleeps.
    pub fn join<F>(
        self: &Arc<Self>,
        key: &[u8],
        tags: &Tags,
        asker: &A,
        overtakes: impl FnOnce(FlightId) -> bool,
        found: impl FnOnce() -> Option<F>,
    ) -> Joined<T, A, F> {
        let mut table = self.lock();
        let now = self.log.newest();
        let joinable = self.joinable(&table, key).filter(|(_, flight)| {
            !flight.is_refresh
                && self.holds(flight.stamp, key, tags)
                // What depends on more cannot be stored: a request that names them loads apart.
                && flight.tags.with(tags).len() <= MAX_TAGS
        });
        let mut depth = 0;
        if let Some((id, flight)) = joinable {
            if !overtakes(id) {
                return Joined::Wait(self.wait(&mut table, id, tags, asker, now));
            }
            depth = flight.overtaken + 1;
        }
        if let Some(found) = found() {
            return Joined::Found(found);
        }
        if depth > MAX_OVERTAKEN {
            return Joined::Crowded;
        }
        let flight = Flight::new(key, tags, now, asker, depth);
        Joined::Lead(self.leader(table.begin(flight), now, depth > 0))
    }

    fn wait(
        self: &Arc<Self>,
        table: &mut FlightTable<T, A>,
        id: FlightId,
        tags: &Tags,
        asker: &A,
        since: Stamp,
    ) -> Waiter<T, A> {
        let slot = number();
        let state = SlotState::Waiting;
        let taken = WaiterSlot { state, asker: asker.clone(), since, waker: None, seen: None };
        table.slots.insert(slot, taken);
        if let Some(flight) = table.flights.get_mut(&id) {
            flight.waiting.push_back(slot);
            // What any of them depends on, the outcome does.
            flight.tags = flight.tags.with(tags);
            let leader = &flight.leader;
            let shown = flight.shown.get_or_insert_with(|| Arc::new(Mutex::new(leader.clone())));
            self.graph.enter(asker.id(), slot, shown);
        }
        let joined = table.flights.get(&id).map_or(asker, |flight| &flight.leader).clone();
        Waiter { flights: Arc::clone(self), flight: id, slot, asker: asker.clone(), joined }
    }

    fn leader(self: &Arc<Self>, id: FlightId, stamp: Stamp, overtook: bool) -> Leader<T, A> {
        Leader { flights: Arc::clone(self), id, stamp, overtook, over: false }
    }

    /// Starts a refresh of what is stored under `key`. Returns `None` if a load or a refresh of that
    /// key, even a superseded one, is still running: an evaluator that has not answered is not asked
    /// again.
    pub fn start_refresh(
        self: &Arc<Self>,
        key: &[u8],
        tags: &Tags,
        asker: &A,
    ) -> Option<Leader<T, A>> {
        let mut table = self.lock();
        if table.refreshes.contains_key(key) || self.joinable(&table, key).is_some() {
            return None;
        }
        let stamp = self.log.newest();
        let id =
            table.begin(Flight { is_refresh: true, ..Flight::new(key, tags, stamp, asker, 0) });
        table.refreshes.insert(key.into(), id);
        Some(self.leader(id, stamp, false))
    }

    /// The flight that refreshes what is stored under `key`, and its leader.
    pub fn running_refresh(&self, key: &[u8]) -> Option<(FlightId, A)> {
        let table = self.lock();
        let id = *table.refreshes.get(key)?;
        Some((id, table.flights.get(&id)?.leader.clone()))
    }

    /// Takes its place from the load of `key`, if one is running: something newer is about to be
    /// stored, which its outcome must not overwrite.
    pub fn supersede(&self, key: &[u8]) {
        let mut table = self.lock();
        // As it mostly is: then there is nothing to hash for.
        if !table.current.is_empty() {
            table.current.remove(key);
        }
    }

    /// The flight that has the place of `key`, unless an invalidation overtook it.
    fn joinable<'t>(
        &self,
        table: &'t FlightTable<T, A>,
        key: &[u8],
    ) -> Option<(FlightId, &'t Flight<A>)> {
        let id = *table.current.get(key)?;
        let flight = table.flights.get(&id)?;
        self.holds(flight.stamp, key, &flight.tags).then_some((id, flight))
    }

    /// Ends a flight whose leader does not go on, if `leader` still leads it. The requests that wait
    /// for it join again. Should the leader come back, it stores nothing.
    pub fn depose(&self, id: FlightId, leader: &A) {
        let mut later = Later::new();
        let mut table = self.lock();
        if table.flights.get(&id).is_some_and(|flight| flight.leader.id() == leader.id()) {
            self.disband(&mut table, id, &mut later);
        }
        drop(table);
        later.run();
    }

    /// Lets everybody who waits for a flight join again, and so look again for a circle.
    pub fn reconsider(&self, id: FlightId) {
        let mut later = Later::new();
        let mut table = self.lock();
        if let Some(flight) = table.flights.get_mut(&id) {
            let waiting = mem::take(&mut flight.waiting);
            self.retry_all(&mut table, &waiting, &mut later);
        }
        drop(table);
        later.run();
    }

    /// How many loads are running.
    pub fn len(&self) -> usize {
        self.lock().flights.len()
    }

    /// Whether no load is running.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every flight: for a forked child, in which neither those who lead nor those who wait
    /// go on. What they hold stays where it is, as whatever else the parent was doing does.
    pub fn forget(&self) {
        mem::forget(mem::take(&mut *self.lock()));
    }

    fn hand_over(&self, id: FlightId) {
        let mut later = Later::new();
        let mut table = self.lock();
        self.pass_on(&mut table, id, &mut later);
        drop(table);
        later.run();
    }
}
