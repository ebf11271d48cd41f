//! The caller that evaluates.

use super::table::Delivery;
use super::{Caller, FlightId, Flights};
use crate::invalidation::{Stamp, Tags};
use std::sync::Arc;

/// The caller that evaluates. If it is dropped before it finishes, a waiter takes over.
pub struct Leader<T: Clone, A: Caller> {
    pub(super) flights: Arc<Flights<T, A>>,
    pub(super) id: FlightId,
    pub(super) stamp: Stamp,
    pub(super) superseded_another: bool,
    pub(super) finished: bool,
}

impl<T: Clone, A: Caller> Leader<T, A> {
    /// Returns the number of the flight.
    pub fn flight(&self) -> FlightId {
        self.id
    }

    /// Returns whether this flight superseded one that its leader had waited for too long.
    pub fn superseded_another(&self) -> bool {
        self.superseded_another
    }

    /// Returns the number of waiters. Linear in that number.
    pub fn waiting(&self) -> usize {
        let table = self.flights.lock();
        let slots = table.flights.get(&self.id).into_iter().flat_map(|flight| &flight.waiting);
        slots.filter(|slot| table.slots.contains_key(slot)).count()
    }

    /// Ends the flight: calls `store`, unless the flight was superseded, and gives every waiter the
    /// outcome.
    ///
    /// `tags` are all tags that the decision turned out to depend on. If one of them was revoked
    /// during the flight and no caller had named it before, a waiter gets the outcome only if it
    /// joined before any invalidation newer than the flight's stamp; the others join again.
    ///
    /// `store` gets the stamp and all tags to store with. It runs under the lock, so that a caller
    /// finds either the flight or the stored entry. It must not call these flights.
    ///
    /// About 100 ns per waiter.
    pub fn finish(mut self, outcome: &T, tags: &Tags, store: impl FnOnce(Stamp, Tags)) {
        self.finished = true;
        let flights = &self.flights;
        flights.change(|table, after| {
            if table.is_current(self.id)
                && let Some(flight) = table.flights.get(&self.id)
            {
                store(self.stamp, flight.tags.union(tags));
            }
            let Some(flight) = table.end(self.id) else { return };
            let late_tags = tags.difference(&flight.tags);
            // Asked under the lock, so the log holds every revocation that precedes a waiter's
            // join.
            let is_revoked =
                !late_tags.is_empty() && !flights.is_valid(self.stamp, &flight.key, &late_tags);
            for slot in &flight.waiting {
                let since = table.slots.get(slot).map(|slot| slot.since);
                let delivery = match since {
                    Some(since) if is_revoked && since > self.stamp => Delivery::Retry,
                    _ => Delivery::Outcome(outcome.clone()),
                };
                flights.deliver(table, *slot, delivery, after);
            }
            flights.end(table, flight, after);
        });
    }
}

impl<T: Clone, A: Caller> Drop for Leader<T, A> {
    fn drop(&mut self) {
        if !self.finished {
            self.flights.hand_over(self.id);
        }
    }
}
