//! The flights of one cache and the slots of those who wait for them, under one lock.

use super::{Asker, FlightId, Map};
use crate::invalidation::{Stamp, Tags};
use crate::shim::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Duration;

pub(super) struct FlightTable<T, A> {
    /// The flight that a key's next request joins.
    pub(super) current: Map<Box<[u8]>, FlightId>,
    pub(super) flights: Map<FlightId, Flight<A>>,
    /// The keys that are being refreshed, each by one flight, whether it still has its place or not.
    pub(super) refreshes: Map<Box<[u8]>, FlightId>,
    /// The waiters, and what they were given and have not collected.
    pub(super) slots: Map<u64, WaiterSlot<T, A>>,
}

/// The last number given to a flight or a slot: one sequence for all caches.
static LAST: AtomicU64 = AtomicU64::new(0);

pub(super) fn number() -> u64 {
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

pub(super) struct Flight<A> {
    pub(super) key: Box<[u8]>,
    /// Those of everybody who joined.
    pub(super) tags: Tags,
    pub(super) stamp: Stamp,
    /// Refreshes what is stored; nobody waits for it.
    pub(super) is_refresh: bool,
    pub(super) leader: A,
    /// The leader, as the graph looks it up: made for the first waiter.
    pub(super) shown: Option<Arc<Mutex<A>>>,
    /// The slot of the waiter that was called to lead and does not lead yet.
    pub(super) heir: Option<u64>,
    /// The slots of the waiters, the longest first; some of them may be gone.
    pub(super) waiting: VecDeque<u64>,
    /// How many flights of this key took each other's place before it.
    pub(super) overtaken: u32,
}

pub(super) struct WaiterSlot<T, A> {
    pub(super) state: SlotState<T>,
    pub(super) asker: A,
    pub(super) since: Stamp,
    pub(super) waker: Option<Waker>,
    /// When `look_after` first saw it in this state.
    pub(super) seen: Option<u64>,
}

pub(super) enum SlotState<T> {
    Waiting,
    Delivered(Delivery<T>),
}

pub(super) enum Delivery<T> {
    Outcome(T),
    Lead,
    Retry,
    Late,
}

/// What has to be done once the table is unlocked.
pub(super) struct Later<A> {
    pub(super) wakers: Vec<Waker>,
    pub(super) ended: Vec<Flight<A>>,
}

impl<A> Later<A> {
    pub(super) fn new() -> Self {
        Self { wakers: Vec::new(), ended: Vec::new() }
    }

    pub(super) fn run(self) {
        drop(self.ended);
        self.wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T, A: Asker> FlightTable<T, A> {
    pub(super) fn is_current(&self, id: FlightId, flight: &Flight<A>) -> bool {
        self.current.get(&flight.key) == Some(&id)
    }

    pub(super) fn has_place(&self, id: FlightId) -> bool {
        self.flights.get(&id).is_some_and(|flight| self.is_current(id, flight))
    }

    pub(super) fn begin(&mut self, flight: Flight<A>) -> FlightId {
        let id = number();
        self.current.insert(flight.key.clone(), id);
        self.flights.insert(id, flight);
        id
    }

    pub(super) fn end(&mut self, id: FlightId) -> Option<Flight<A>> {
        let flight = self.flights.remove(&id)?;
        if self.refreshes.get(&flight.key) == Some(&id) {
            self.refreshes.remove(&flight.key);
        }
        if self.is_current(id, &flight) {
            self.current.remove(&flight.key);
        }
        Some(flight)
    }

    pub(super) fn enthrone(&mut self, id: FlightId, heir: u64) {
        if let (Some(flight), Some(slot)) = (self.flights.get_mut(&id), self.slots.get(&heir)) {
            flight.heir = Some(heir);
            flight.leader = slot.asker.clone();
            if let Some(shown) = &flight.shown {
                *lock(shown) = slot.asker.clone();
            }
        }
    }

    /// Forgets the slots of those who gave up, as far as they are the first or the last of a flight.
    pub(super) fn trim(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let gone = |slot: Option<&u64>| slot.is_some_and(|slot| !self.slots.contains_key(slot));
        while gone(flight.waiting.front()) {
            flight.waiting.pop_front();
        }
        while gone(flight.waiting.back()) {
            flight.waiting.pop_back();
        }
    }
}

impl<A: Asker> Flight<A> {
    pub(super) fn new(key: &[u8], tags: &Tags, stamp: Stamp, leader: &A, overtaken: u32) -> Self {
        Self {
            key: key.into(),
            tags: tags.clone(),
            stamp,
            is_refresh: false,
            leader: leader.clone(),
            shown: None,
            heir: None,
            waiting: VecDeque::new(),
            overtaken,
        }
    }
}

impl<T, A> WaiterSlot<T, A> {
    /// How long it has been seen in its state, from now on if it was not.
    pub(super) fn seen_for(&mut self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_sub(*self.seen.get_or_insert(now)))
    }
}

impl<T, A> Default for FlightTable<T, A> {
    fn default() -> Self {
        Self {
            current: Map::default(),
            flights: Map::default(),
            refreshes: Map::default(),
            slots: Map::default(),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under the locks panics half way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
