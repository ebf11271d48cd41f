//! The periodic check of waiters, which keeps any of them from waiting forever.

use super::table::{AfterUnlock, Delivery, Flight, FlightTable, SlotState};
use super::{CHECK_INTERVAL, Caller, FlightId, Flights, WAIT_LIMIT};
use std::mem;

/// The result of [`Flights::check_waiters`].
#[derive(Debug)]
pub struct WaiterCheck<A> {
    /// True while a waiter waits, or has not collected its outcome.
    pub pending: bool,
    /// The flights with a waiter that has waited for a [`CHECK_INTERVAL`], and their leaders.
    pub slow: Vec<(FlightId, A)>,
}

impl<T: Clone, A: Caller> Flights<T, A> {
    /// Checks all waiters. Call it about once per [`CHECK_INTERVAL`] while a waiter exists.
    ///
    /// `now` is the time of any monotonic clock, in nanoseconds. The check
    ///
    /// - appoints the next successor where one did not take the lead in time;
    /// - wakes the waiters again that did not collect their outcome in time;
    /// - ends the wait of waiters that have waited for [`WAIT_LIMIT`].
    ///
    /// Linear in the number of flights and waiters, under the lock.
    pub fn check_waiters(&self, now: u64) -> WaiterCheck<A> {
        self.change(|table, after| {
            let has_waiters = |(_, flight): &(&u64, &Flight<A>)| {
                flight.successor.is_some() || !flight.waiting.is_empty()
            };
            let ids: Vec<FlightId> =
                table.flights.iter().filter(has_waiters).map(|(id, _)| *id).collect();
            for id in &ids {
                self.check_successor(table, *id, now, after);
            }
            let slow = ids.into_iter().filter_map(|id| {
                let is_slow = self.check_waiting(table, id, now, after);
                let leader = table.flights.get(&id)?.leader.clone();
                is_slow.then_some((id, leader))
            });
            let slow = slow.collect();
            for slot in table.slots.values_mut() {
                let is_delivered = matches!(slot.state, SlotState::Delivered(_));
                if is_delivered && slot.seen_for(now) >= CHECK_INTERVAL {
                    slot.seen = Some(now);
                    after.wakers.extend(slot.waker.clone());
                }
            }
            WaiterCheck { pending: !table.slots.is_empty(), slow }
        })
    }

    /// Appoints the next successor if the present one did not take the lead in time.
    fn check_successor(
        &self,
        table: &mut FlightTable<T, A>,
        id: FlightId,
        now: u64,
        after: &mut AfterUnlock<A>,
    ) {
        let Some(successor) = table.flights.get(&id).and_then(|flight| flight.successor) else {
            return;
        };
        let is_late =
            table.slots.get_mut(&successor).is_none_or(|slot| slot.seen_for(now) >= CHECK_INTERVAL);
        if is_late {
            self.deliver(table, successor, Delivery::Retry, after);
            self.appoint_next(table, id, after);
        }
    }

    /// Ends the wait of waiters that have waited for [`WAIT_LIMIT`].
    ///
    /// Returns whether any waiter has waited for a [`CHECK_INTERVAL`].
    fn check_waiting(
        &self,
        table: &mut FlightTable<T, A>,
        id: FlightId,
        now: u64,
        after: &mut AfterUnlock<A>,
    ) -> bool {
        let Some(flight) = table.flights.get_mut(&id) else { return false };
        let mut waiting = mem::take(&mut flight.waiting);
        let mut is_slow = false;
        waiting.retain(|slot| {
            let waited = table.slots.get_mut(slot).map(|slot| slot.seen_for(now));
            is_slow |= waited.is_some_and(|waited| waited >= CHECK_INTERVAL);
            match waited {
                Some(waited) if waited >= WAIT_LIMIT => {
                    self.deliver(table, *slot, Delivery::TimedOut, after);
                    false
                }
                waited => waited.is_some(),
            }
        });
        if let Some(flight) = table.flights.get_mut(&id) {
            flight.waiting = waiting;
        }
        is_slow
    }
}
