//! The request that evaluates.

use super::table::{Delivery, Later};
use super::{Asker, FlightId, Flights};
use crate::invalidation::{Stamp, Tags};
use std::sync::Arc;

/// The one who evaluates. Dropped unfinished, it hands over to a waiter.
pub struct Leader<T: Clone, A: Asker> {
    pub(super) flights: Arc<Flights<T, A>>,
    pub(super) id: FlightId,
    pub(super) stamp: Stamp,
    pub(super) overtook: bool,
    pub(super) over: bool,
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
        let slots = table.flights.get(&self.id).into_iter().flat_map(|flight| &flight.waiting);
        slots.filter(|slot| table.slots.contains_key(slot)).count()
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
            for slot in &flight.waiting {
                let since = table.slots.get(slot).map(|slot| slot.since);
                let delivery = match since {
                    Some(since) if revoked && since > self.stamp => Delivery::Retry,
                    _ => Delivery::Outcome(outcome.clone()),
                };
                flights.deliver(&mut table, *slot, delivery, &mut later);
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
