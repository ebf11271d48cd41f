//! The flights of one cache and the slots of its waiters, guarded by one lock.

use super::{Caller, FlightId, Map};
use crate::invalidation::{Stamp, Tags};
use crate::limits::MAX_TAGS;
use crate::shim::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Duration;

pub(super) struct FlightTable<T, A> {
    /// The current flight of each key: the one that the next caller joins.
    pub(super) current: Map<Box<[u8]>, FlightId>,
    /// All running flights, superseded ones included.
    pub(super) flights: Map<FlightId, Flight<A>>,
    /// The refresh of each key, current or superseded.
    pub(super) refreshes: Map<Box<[u8]>, FlightId>,
    /// The slots of waiters that wait, or that have not collected their delivery.
    pub(super) slots: Map<u64, WaiterSlot<T, A>>,
}

/// The last number given to a flight or a slot, in one sequence for all caches.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

pub(super) fn number() -> u64 {
    LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1
}

pub(super) struct Flight<A> {
    pub(super) key: Box<[u8]>,
    /// The tags of all callers that joined.
    pub(super) tags: Tags,
    pub(super) stamp: Stamp,
    /// Marks a refresh, which has no waiters.
    pub(super) is_refresh: bool,
    pub(super) leader: A,
    /// The leader as the wait graph reads it, created for the first waiter.
    pub(super) shared_leader: Option<Arc<Mutex<A>>>,
    /// The slot of the waiter that was appointed and has not taken the lead yet.
    pub(super) successor: Option<u64>,
    /// The slots of the waiters, the longest wait first. Some of the waiters may have been dropped.
    pub(super) waiting: VecDeque<u64>,
    /// The number of unfinished flights of this key that superseded each other before this one.
    pub(super) superseded: u32,
    /// The flight of the callers that asked without a lease while this one ran. It begins when this
    /// one ends.
    pub(super) next: Option<FlightId>,
    /// The flight that this one waits for, until it begins.
    pub(super) follows: Option<FlightId>,
}

pub(super) struct WaiterSlot<T, A> {
    pub(super) state: SlotState<T>,
    pub(super) caller: A,
    /// The log's newest stamp when the waiter joined.
    pub(super) since: Stamp,
    pub(super) waker: Option<Waker>,
    /// The time at which `check_waiters` first saw the slot in this state.
    pub(super) seen: Option<u64>,
}

pub(super) enum SlotState<T> {
    Waiting,
    Delivered(Delivery<T>),
}

/// The result that a waiter collects at its next poll; see [`WaitOutcome`](super::WaitOutcome).
pub(super) enum Delivery<T> {
    Outcome(T),
    Lead,
    Retry,
    TimedOut,
}

/// Wakers to call and flights to drop after the table is unlocked.
pub(super) struct AfterUnlock<A> {
    pub(super) wakers: Vec<Waker>,
    pub(super) ended: Vec<Flight<A>>,
}

impl<A> AfterUnlock<A> {
    pub(super) fn new() -> Self {
        Self { wakers: Vec::new(), ended: Vec::new() }
    }

    pub(super) fn run(self) {
        drop(self.ended);
        self.wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T, A: Caller> FlightTable<T, A> {
    /// Returns whether a running flight is the current one of its key.
    pub(super) fn is_current(&self, id: FlightId) -> bool {
        self.flights.get(&id).is_some_and(|flight| self.is_current_of(&flight.key, id))
    }

    pub(super) fn is_current_of(&self, key: &[u8], id: FlightId) -> bool {
        self.current.get(key) == Some(&id)
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
        if self.is_current_of(&flight.key, id) {
            self.current.remove(&flight.key);
        }
        Some(flight)
    }

    pub(super) fn appoint(&mut self, id: FlightId, successor: u64) {
        if let (Some(flight), Some(slot)) = (self.flights.get_mut(&id), self.slots.get(&successor))
        {
            flight.successor = Some(successor);
            flight.leader = slot.caller.clone();
            if let Some(shared_leader) = &flight.shared_leader {
                *lock(shared_leader) = slot.caller.clone();
            }
            // The waiters of the next flight wait for this leader too.
            let next = flight.next;
            if let Some(next) = next.and_then(|next| self.flights.get_mut(&next)) {
                next.leader = slot.caller.clone();
            }
        }
    }

    /// Returns whether a decision with the tags of a flight and all these can be stored.
    pub(super) fn has_room_for(&self, id: FlightId, tags: &Tags) -> bool {
        self.flights.get(&id).is_none_or(|flight| flight.has_room_for(tags))
    }

    /// Adds the flight that begins when a running one ends. Until then its waiters wait for the
    /// leader of the running flight.
    pub(super) fn plan_next(&mut self, id: FlightId, tags: &Tags) -> FlightId {
        let Some(running) = self.flights.get_mut(&id) else { return id };
        let next = number();
        running.next = Some(next);
        let leader = running.leader.clone();
        let shared_leader =
            running.shared_leader.get_or_insert_with(|| Arc::new(Mutex::new(leader.clone())));
        let planned = Flight {
            shared_leader: Some(Arc::clone(shared_leader)),
            follows: Some(id),
            ..Flight::new(&running.key, tags, running.stamp, &leader, 0)
        };
        self.flights.insert(next, planned);
        next
    }

    /// Removes the slots of dropped waiters from both ends of a flight's queue.
    pub(super) fn trim(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let is_dropped =
            |slot: Option<&u64>| slot.is_some_and(|slot| !self.slots.contains_key(slot));
        while is_dropped(flight.waiting.front()) {
            flight.waiting.pop_front();
        }
        while is_dropped(flight.waiting.back()) {
            flight.waiting.pop_back();
        }
    }
}

impl<A: Caller> Flight<A> {
    /// Returns whether a decision with all these tags can be stored.
    pub(super) fn has_room_for(&self, tags: &Tags) -> bool {
        self.tags.union(tags).len() <= MAX_TAGS
    }

    pub(super) fn new(key: &[u8], tags: &Tags, stamp: Stamp, leader: &A, superseded: u32) -> Self {
        Self {
            key: key.into(),
            tags: tags.clone(),
            stamp,
            is_refresh: false,
            leader: leader.clone(),
            shared_leader: None,
            successor: None,
            waiting: VecDeque::new(),
            superseded,
            next: None,
            follows: None,
        }
    }
}

impl<T, A> WaiterSlot<T, A> {
    /// Returns how long the slot has been seen in its state; the first call starts at zero.
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
    // No code under these locks panics half way through a change, so poisoning is ignored.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
