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
//! What is stored can also be refreshed [ahead](Flights::lead_ahead). Nobody waits for that: a
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

use crate::limits::MAX_TAGS;
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
use std::time::Duration;

type Map<K, V> = HashMap<K, V, RandomState>;

/// How long an heir may take to lead, and a resumed waiter to collect its outcome. Also the
/// interval at which [`Flights::look_after`] should be called.
pub const MOMENT: Duration = Duration::from_millis(500);

/// How long a request waits for somebody else's evaluation before it evaluates for itself.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How many evaluations of one key may take each other's place because they did not end.
pub const MAX_OVERTAKEN: u32 = 16;

/// The most tasks that one search of the graph visits.
const MAX_VISITED: usize = 1_000;

/// Names a flight.
pub type FlightId = u64;

/// A task that asks, as far as the flights have to know it.
pub trait Asker: Clone {
    /// Names the task while it lives; `None`: it cannot be told from others.
    fn id(&self) -> Option<u64>;
}

/// The tasks that wait for flights, and those that lead them. One for all caches whose loaders may
/// ask for each other's values.
pub struct WaitGraph<A> {
    waiting: Mutex<Map<u64, Wait<A>>>,
}

struct Wait<A> {
    seat: u64,
    leader: Arc<Mutex<A>>,
}

impl<A> Default for WaitGraph<A> {
    fn default() -> Self {
        Self { waiting: Mutex::new(Map::default()) }
    }
}

impl<A: Asker> WaitGraph<A> {
    /// Whether `from` is the task `to` or waits for it, however many are in between.
    ///
    /// `others` returns the tasks that a task waits for without a flight. Called without a lock.
    pub fn leads_to(&self, from: A, to: u64, mut others: impl FnMut(&A) -> Vec<A>) -> bool {
        let (mut seen, mut ahead) = (HashSet::<u64, RandomState>::default(), vec![from]);
        while let Some(asker) = ahead.pop() {
            match asker.id() {
                Some(id) if id == to => return true,
                Some(id) if seen.len() < MAX_VISITED && seen.insert(id) => {
                    ahead.extend(self.leader_for(id));
                    ahead.extend(others(&asker));
                }
                _ => {}
            }
        }
        false
    }

    /// Whether a task waits for itself.
    pub fn is_circular(&self, asker: &A, mut others: impl FnMut(&A) -> Vec<A>) -> bool {
        let Some(id) = asker.id() else { return false };
        let next = self.leader_for(id).into_iter().chain(others(asker));
        next.collect::<Vec<_>>().into_iter().any(|next| self.leads_to(next, id, &mut others))
    }

    /// The leader that a task waits for.
    fn leader_for(&self, id: u64) -> Option<A> {
        let leader = Arc::clone(&lock(&self.waiting).get(&id)?.leader);
        let leader = lock(&leader).clone();
        Some(leader)
    }

    fn enter(&self, id: Option<u64>, seat: u64, leader: &Arc<Mutex<A>>) {
        if let Some(id) = id {
            let wait = Wait { seat, leader: Arc::clone(leader) };
            lock(&self.waiting).insert(id, wait);
        }
    }

    fn leave(&self, id: Option<u64>, seat: u64) {
        let Some(id) = id else { return };
        let mut waiting = lock(&self.waiting);
        let left = match waiting.get(&id) {
            Some(wait) if wait.seat == seat => waiting.remove(&id),
            _ => None,
        };
        drop(waiting);
        drop(left);
    }
}

/// All loads of one cache that are running, with outcomes of type `T`, asked for by `A`s.
pub struct Flights<T, A> {
    log: Arc<Log>,
    graph: Arc<WaitGraph<A>>,
    table: Mutex<Table<T, A>>,
}

struct Table<T, A> {
    /// The flight that a key's next request joins.
    current: Map<Box<[u8]>, FlightId>,
    flights: Map<FlightId, Flight<A>>,
    /// The keys that are being refreshed, each by one flight, whether it still has its place or not.
    ahead: Map<Box<[u8]>, FlightId>,
    /// The waiters, and what they were given and have not collected.
    seats: Map<u64, Seat<T, A>>,
}

/// The last number given to a flight or a seat: one sequence for all caches.
static LAST: AtomicU64 = AtomicU64::new(0);

fn number() -> u64 {
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

struct Flight<A> {
    key: Box<[u8]>,
    /// Those of everybody who joined.
    tags: Tags,
    stamp: Stamp,
    /// Refreshes what is stored; nobody waits for it.
    ahead: bool,
    leader: A,
    /// The leader, as the graph looks it up: made for the first waiter.
    shown: Option<Arc<Mutex<A>>>,
    /// The seat of the waiter that was called to lead and does not lead yet.
    heir: Option<u64>,
    /// The seats of the waiters, the longest first; some of them may be gone.
    waiting: VecDeque<u64>,
    /// How many flights of this key took each other's place before it.
    overtaken: u32,
}

struct Seat<T, A> {
    state: Taken<T>,
    asker: A,
    since: Stamp,
    waker: Option<Waker>,
    /// When `look_after` first saw it in this state.
    seen: Option<u64>,
}

enum Taken<T> {
    Waiting,
    Given(Given<T>),
}

enum Given<T> {
    Outcome(T),
    Lead,
    Retry,
    Late,
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

/// What becomes of a request that waited.
pub enum Turn<T: Clone, A: Asker> {
    /// The outcome.
    Outcome(T),
    /// The leader gave up: this request has to evaluate.
    Lead(Leader<T, A>),
    /// It has to join again: the outcome was revoked before this request came, or another flight
    /// has the place of the one that it waited for.
    Retry,
    /// It waited for [`PATIENCE`] and has to join again, in the place of this flight.
    Late(FlightId),
}

/// What [`Flights::look_after`] found.
#[derive(Debug)]
pub struct Look<A> {
    /// Whether anybody waits, or has not collected what they were given.
    pub anybody: bool,
    /// The flights that somebody has been waiting for since a [`MOMENT`], and their leaders.
    pub slow: Vec<(FlightId, A)>,
}

/// What has to be done once the table is unlocked.
struct Later<A> {
    wakers: Vec<Waker>,
    ended: Vec<Flight<A>>,
}

impl<A> Later<A> {
    fn new() -> Self {
        Self { wakers: Vec::new(), ended: Vec::new() }
    }

    fn run(self) {
        drop(self.ended);
        self.wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T, A: Asker> Table<T, A> {
    fn is_current(&self, id: FlightId, flight: &Flight<A>) -> bool {
        self.current.get(&flight.key) == Some(&id)
    }

    fn has_place(&self, id: FlightId) -> bool {
        self.flights.get(&id).is_some_and(|flight| self.is_current(id, flight))
    }

    fn begin(&mut self, flight: Flight<A>) -> FlightId {
        let id = number();
        self.current.insert(flight.key.clone(), id);
        self.flights.insert(id, flight);
        id
    }

    fn end(&mut self, id: FlightId) -> Option<Flight<A>> {
        let flight = self.flights.remove(&id)?;
        if self.ahead.get(&flight.key) == Some(&id) {
            self.ahead.remove(&flight.key);
        }
        if self.is_current(id, &flight) {
            self.current.remove(&flight.key);
        }
        Some(flight)
    }

    fn enthrone(&mut self, id: FlightId, heir: u64) {
        if let (Some(flight), Some(seat)) = (self.flights.get_mut(&id), self.seats.get(&heir)) {
            flight.heir = Some(heir);
            flight.leader = seat.asker.clone();
            if let Some(shown) = &flight.shown {
                *lock(shown) = seat.asker.clone();
            }
        }
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
}

impl<T, A: Asker> Flights<T, A> {
    /// No flight yet; revocations are looked up in `log`, circles in `graph`.
    pub fn new(log: Arc<Log>, graph: Arc<WaitGraph<A>>) -> Self {
        Self { log, graph, table: Mutex::new(Table::default()) }
    }

    fn holds(&self, stamp: Stamp, key: &[u8], tags: &Tags) -> bool {
        self.log.verdict(stamp, Subject { key, tags }) != Verdict::Overtaken
    }

    fn lock(&self) -> MutexGuard<'_, Table<T, A>> {
        lock(&self.table)
    }

    /// Gives what one who waits has been waiting for; false if it is gone.
    fn give(
        &self,
        table: &mut Table<T, A>,
        number: u64,
        given: Given<T>,
        later: &mut Later<A>,
    ) -> bool {
        let Some(seat) = table.seats.get_mut(&number) else { return false };
        self.graph.leave(seat.asker.id(), number);
        seat.state = Taken::Given(given);
        seat.seen = None;
        // Kept, so that it can be woken again should that get lost.
        later.wakers.extend(seat.waker.clone());
        true
    }

    /// Lets everybody who waits for a flight join again.
    fn give_all(&self, table: &mut Table<T, A>, waiting: &VecDeque<u64>, later: &mut Later<A>) {
        for seat in waiting {
            self.give(table, *seat, Given::Retry, later);
        }
    }

    /// Ends a flight that has no leader; who waits for it joins again.
    fn disband(&self, table: &mut Table<T, A>, id: FlightId, later: &mut Later<A>) {
        let Some(flight) = table.end(id) else { return };
        self.give_all(table, &flight.waiting, later);
        later.ended.push(flight);
    }

    /// Makes the one who waited longest the leader; without any the flight ends. One that lost its
    /// place ends, too: who waits for it joins the one that has it.
    fn pass_on(&self, table: &mut Table<T, A>, id: FlightId, later: &mut Later<A>) {
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
            if self.give(table, heir, Given::Lead, later) {
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
            !flight.ahead
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
        table: &mut Table<T, A>,
        id: FlightId,
        tags: &Tags,
        asker: &A,
        since: Stamp,
    ) -> Waiter<T, A> {
        let seat = number();
        let state = Taken::Waiting;
        let taken = Seat { state, asker: asker.clone(), since, waker: None, seen: None };
        table.seats.insert(seat, taken);
        if let Some(flight) = table.flights.get_mut(&id) {
            flight.waiting.push_back(seat);
            // What any of them depends on, the outcome does.
            flight.tags = flight.tags.with(tags);
            let leader = &flight.leader;
            let shown = flight.shown.get_or_insert_with(|| Arc::new(Mutex::new(leader.clone())));
            self.graph.enter(asker.id(), seat, shown);
        }
        let joined = table.flights.get(&id).map_or(asker, |flight| &flight.leader).clone();
        Waiter { flights: Arc::clone(self), flight: id, seat, asker: asker.clone(), joined }
    }

    fn leader(self: &Arc<Self>, id: FlightId, stamp: Stamp, overtook: bool) -> Leader<T, A> {
        Leader { flights: Arc::clone(self), id, stamp, overtook, over: false }
    }

    /// Starts a refresh of what is stored under `key`. Returns `None` if a load or a refresh of that
    /// key, even a superseded one, is still running: an evaluator that has not answered is not asked
    /// again.
    pub fn lead_ahead(
        self: &Arc<Self>,
        key: &[u8],
        tags: &Tags,
        asker: &A,
    ) -> Option<Leader<T, A>> {
        let mut table = self.lock();
        if table.ahead.contains_key(key) || self.joinable(&table, key).is_some() {
            return None;
        }
        let stamp = self.log.newest();
        let id = table.begin(Flight { ahead: true, ..Flight::new(key, tags, stamp, asker, 0) });
        table.ahead.insert(key.into(), id);
        Some(self.leader(id, stamp, false))
    }

    /// The flight that refreshes what is stored under `key`, and its leader.
    pub fn led_ahead(&self, key: &[u8]) -> Option<(FlightId, A)> {
        let table = self.lock();
        let id = *table.ahead.get(key)?;
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
        table: &'t Table<T, A>,
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
            self.give_all(&mut table, &waiting, &mut later);
        }
        drop(table);
        later.run();
    }

    /// Looks after those who wait: to be called about once a [`MOMENT`] while anybody does, with the
    /// nanoseconds of a monotonic clock.
    ///
    /// Calls the next heir where one did not take the lead within a moment; wakes again who did not
    /// collect what they were given; and ends the patience of those who waited for too long.
    pub fn look_after(&self, now: u64) -> Look<A> {
        let mut later = Later::new();
        let mut table = self.lock();
        let waited_for =
            |(_, flight): &(&u64, &Flight<A>)| flight.heir.is_some() || !flight.waiting.is_empty();
        let ids: Vec<FlightId> =
            table.flights.iter().filter(waited_for).map(|(id, _)| *id).collect();
        for id in &ids {
            self.look_after_heir(&mut table, *id, now, &mut later);
        }
        let slow = ids.into_iter().filter_map(|id| {
            let slow = self.look_after_waiters(&mut table, id, now, &mut later);
            let leader = table.flights.get(&id)?.leader.clone();
            slow.then_some((id, leader))
        });
        let slow = slow.collect();
        for seat in table.seats.values_mut() {
            if matches!(seat.state, Taken::Given(_)) && seat.seen_for(now) >= MOMENT {
                seat.seen = Some(now);
                later.wakers.extend(seat.waker.clone());
            }
        }
        let anybody = !table.seats.is_empty();
        drop(table);
        later.run();
        Look { anybody, slow }
    }

    /// Calls the next heir, if the one that was called did not come.
    fn look_after_heir(
        &self,
        table: &mut Table<T, A>,
        id: FlightId,
        now: u64,
        later: &mut Later<A>,
    ) {
        let Some(heir) = table.flights.get(&id).and_then(|flight| flight.heir) else { return };
        let late = table.seats.get_mut(&heir).is_none_or(|seat| seat.seen_for(now) >= MOMENT);
        if late {
            self.give(table, heir, Given::Retry, later);
            self.pass_on(table, id, later);
        }
    }

    /// Ends the patience of those who waited for too long; whether anybody waits since a moment.
    fn look_after_waiters(
        &self,
        table: &mut Table<T, A>,
        id: FlightId,
        now: u64,
        later: &mut Later<A>,
    ) -> bool {
        let Some(flight) = table.flights.get_mut(&id) else { return false };
        let mut waiting = mem::take(&mut flight.waiting);
        let mut slow = false;
        waiting.retain(|seat| {
            let waited = table.seats.get_mut(seat).map(|seat| seat.seen_for(now));
            slow |= waited.is_some_and(|waited| waited >= MOMENT);
            match waited {
                Some(waited) if waited >= PATIENCE => {
                    self.give(table, *seat, Given::Late, later);
                    false
                }
                waited => waited.is_some(),
            }
        });
        if let Some(flight) = table.flights.get_mut(&id) {
            flight.waiting = waiting;
        }
        slow
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

impl<A: Asker> Flight<A> {
    fn new(key: &[u8], tags: &Tags, stamp: Stamp, leader: &A, overtaken: u32) -> Self {
        Self {
            key: key.into(),
            tags: tags.clone(),
            stamp,
            ahead: false,
            leader: leader.clone(),
            shown: None,
            heir: None,
            waiting: VecDeque::new(),
            overtaken,
        }
    }
}

impl<T, A> Seat<T, A> {
    /// How long it has been seen in its state, from now on if it was not.
    fn seen_for(&mut self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_sub(*self.seen.get_or_insert(now)))
    }
}

impl<T, A> Default for Table<T, A> {
    fn default() -> Self {
        Self {
            current: Map::default(),
            flights: Map::default(),
            ahead: Map::default(),
            seats: Map::default(),
        }
    }
}

/// The one who evaluates. Dropped unfinished, it hands over to a waiter.
pub struct Leader<T: Clone, A: Asker> {
    flights: Arc<Flights<T, A>>,
    id: FlightId,
    stamp: Stamp,
    overtook: bool,
    over: bool,
}

impl<T: Clone, A: Asker> Leader<T, A> {
    /// Names the flight.
    pub fn flight(&self) -> FlightId {
        self.id
    }

    /// Whether it took the place of a flight that it had waited for.
    pub fn overtook(&self) -> bool {
        self.overtook
    }

    /// How many wait for the outcome.
    pub fn waiting(&self) -> usize {
        let table = self.flights.lock();
        let seats = table.flights.get(&self.id).into_iter().flat_map(|flight| &flight.waiting);
        seats.filter(|seat| table.seats.contains_key(seat)).count()
    }

    /// Ends the flight: lets `store` store the outcome, unless the flight lost its place, and gives
    /// everybody the outcome.
    ///
    /// `tags` are all that the decision turned out to depend on. If one that was not known when the
    /// flight began was revoked since, the outcome is given only to those who joined before that
    /// could have happened; the others join again. `store` is given the stamp and all tags. It runs
    /// under the lock, so that no request finds neither the flight nor what it stored, and must not
    /// come back here.
    pub fn finish(mut self, outcome: &T, tags: &Tags, store: impl FnOnce(Stamp, Tags)) {
        self.over = true;
        let flights = &self.flights;
        let mut later = Later::new();
        let mut table = flights.lock();
        if let Some(flight) = table.flights.get(&self.id)
            && table.is_current(self.id, flight)
        {
            store(self.stamp, flight.tags.with(tags));
        }
        if let Some(flight) = table.end(self.id) {
            let late = tags.without(&flight.tags);
            // Asked under the lock: what was revoked before somebody joined is known by now.
            let revoked = !late.is_empty() && !flights.holds(self.stamp, &flight.key, &late);
            for seat in &flight.waiting {
                let since = table.seats.get(seat).map(|seat| seat.since);
                let given = match since {
                    Some(since) if revoked && since > self.stamp => Given::Retry,
                    _ => Given::Outcome(outcome.clone()),
                };
                flights.give(&mut table, *seat, given, &mut later);
            }
            later.ended.push(flight);
        }
        drop(table);
        later.run();
    }
}

impl<T: Clone, A: Asker> Drop for Leader<T, A> {
    fn drop(&mut self) {
        if !self.over {
            self.flights.hand_over(self.id);
        }
    }
}

/// One who waits; a future of its [`Turn`].
pub struct Waiter<T: Clone, A: Asker> {
    flights: Arc<Flights<T, A>>,
    flight: FlightId,
    seat: u64,
    asker: A,
    joined: A,
}

impl<T: Clone, A: Asker> Waiter<T, A> {
    /// The flight that it waits for.
    pub fn flight(&self) -> FlightId {
        self.flight
    }

    /// The leader of the flight when it joined.
    pub fn joined(&self) -> &A {
        &self.joined
    }

    /// Whether the leader waits for the task that waits here, as [`WaitGraph::leads_to`] finds out.
    pub fn is_circular(&self, others: impl FnMut(&A) -> Vec<A>) -> bool {
        let Some(id) = self.asker.id() else { return false };
        let leader = self.flights.graph.leader_for(id);
        leader.is_some_and(|leader| self.flights.graph.leads_to(leader, id, others))
    }

    /// Passes the lead on, if it was called to lead. It has to join again.
    pub fn decline(&self) {
        let mut later = Later::new();
        let mut table = self.flights.lock();
        if let Some(seat) = table.seats.get_mut(&self.seat)
            && matches!(seat.state, Taken::Given(Given::Lead))
        {
            seat.state = Taken::Given(Given::Retry);
            self.flights.pass_on(&mut table, self.flight, &mut later);
        }
        drop(table);
        later.run();
    }
}

impl<T: Clone, A: Asker> Future for Waiter<T, A> {
    type Output = Turn<T, A>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn<T, A>> {
        let mut table = self.flights.lock();
        if let Some(seat) = table.seats.get_mut(&self.seat)
            && matches!(seat.state, Taken::Waiting)
        {
            let before = seat.waker.replace(context.waker().clone());
            drop(table);
            drop(before);
            return Poll::Pending;
        }
        let seat = table.seats.remove(&self.seat);
        let Some(Seat { state: Taken::Given(given), waker, asker, .. }) = seat else {
            return Poll::Ready(Turn::Retry); // forgotten
        };
        let turn = match given {
            Given::Lead => match table.flights.get_mut(&self.flight) {
                Some(flight) => {
                    flight.heir = None;
                    Turn::Lead(self.flights.leader(self.flight, flight.stamp, false))
                }
                None => Turn::Retry, // ended by somebody else
            },
            Given::Outcome(outcome) => Turn::Outcome(outcome),
            Given::Retry => Turn::Retry,
            Given::Late => Turn::Late(self.flight),
        };
        drop(table);
        drop((waker, asker));
        Poll::Ready(turn)
    }
}

impl<T: Clone, A: Asker> Drop for Waiter<T, A> {
    fn drop(&mut self) {
        self.flights.graph.leave(self.asker.id(), self.seat);
        let mut table = self.flights.lock();
        let Some(seat) = table.seats.remove(&self.seat) else { return };
        table.trim(self.flight);
        drop(table);
        if matches!(seat.state, Taken::Given(Given::Lead)) {
            // Called to lead and gone: it is the next one's turn.
            self.flights.hand_over(self.flight);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under the locks panics half way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
